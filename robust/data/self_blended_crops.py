"""A training set with one more method of fakes: a fresh self-blend of each real crop every time it is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robust.data.crops import CropSet
from robust.data.self_blend import METHOD, STRENGTHS, Strength, as_target, self_blend
from robust.errors import UserError

_DRAW = 0x5B1  # apart from what augmentation draws of the same seed


@dataclass
class SelfBlendedCrops(CropSet):
    """
    Attributes:
        made_of: (B,) indices of the real crops; the blend of the k-th is number N - B + k of the set.
        strengths: each blend takes one of them, at random.
    """

    made_of: np.ndarray | None = None
    strengths: tuple[Strength, ...] = ()

    @classmethod
    def of(cls, crops: CropSet, strength: str) -> SelfBlendedCrops:
        """The crops, and a blend of each real one.

        Args:
            strength: a name of STRENGTHS, or "mixed" for all of them in turn.
        Raises:
            UserError: there are no real crops, or a real one has no landmarks.
        """
        reals = np.flatnonzero(crops.labels == 0)
        if len(reals) == 0:
            raise UserError("train.self_blend: there are no real face crops to blend; run jobs.extract first")
        known = crops.landmarks is not None and np.ptp(crops.landmarks[reals], axis=1).max(axis=1) > 1
        if not np.all(known):
            first = crops.video_ids[reals[np.argmin(known)]]
            raise UserError(
                f"train.self_blend: the landmarks of {first} are not known; real faces must come from jobs.extract"
            )
        return cls(
            labels=np.concatenate([crops.labels, np.ones(len(reals), np.int64)]),
            video_ids=np.concatenate([crops.video_ids, crops.video_ids[reals] + " blended"]),
            methods=np.concatenate([crops.methods, np.array([METHOD] * len(reals), object)]),
            size=crops.size, pixels=crops.pixels, encoded=crops.encoded, landmarks=crops.landmarks, made_of=reals,
            frames=None if crops.frames is None else np.concatenate([crops.frames, crops.frames[reals]]),
            strengths=tuple(STRENGTHS.values()) if strength == "mixed" else (STRENGTHS[strength],),
        )  # fmt: skip

    def draw(self, index: int, seed: int | None) -> np.ndarray:
        """(size, size, 3) uint8: a blend, or a stored crop that is changed as the targets of blends are.

        Raises:
            ValueError: no seed.
        """
        if seed is None:
            raise ValueError("self-blends are drawn, so each place of a batch needs a seed")
        rng = np.random.default_rng([seed, _DRAW])
        strength = self.strengths[rng.integers(len(self.strengths))]
        number = index - (len(self) - len(self.made_of))
        if number < 0:
            return as_target(self.image(index), rng, strength=strength)
        real = self.made_of[number]
        return self_blend(self.image(real), self.landmarks[real], rng, strength=strength)

    def fixed(self, seed: int) -> CropSet:
        """An ordinary set that keeps one draw: the stored crops unchanged, then one blend of each real one."""
        stored = len(self) - len(self.made_of)
        blends = [self.draw(stored + number, seed + number) for number in range(len(self.made_of))]
        kept = [self.image(index) for index in range(stored)]
        return CropSet(self.labels, self.video_ids, self.methods, self.size, pixels=np.stack(kept + blends))
