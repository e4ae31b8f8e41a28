"""The table that everything is computed from: each crop's logit before and after each attack on each model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robust.data.shards import SUBJECT
from robust.errors import UserError
from robust.evaluation.metrics import video_scores

PREDICTION_SCHEMA = pa.schema(
    [
        ("model", pa.string()),  # its name in the report: "baseline", "defended", ...
        ("attack", pa.string()),
        ("epsilon", pa.float64()),  # radius in 0-255 units
        ("video_id", pa.string()),
        ("frame_index", pa.int32()),
        ("label", pa.int8()),  # 1 = fake
        ("method", pa.string()),
        ("identities", pa.list_(pa.string())),
        ("clean", pa.float32()),  # logit before the attack
        ("adversarial", pa.float32()),  # logit after it
    ]
)

EXTRA_FIELDS = {
    "track": (pa.int32(), SUBJECT),  # the person's number in the video; others are there if everybody is judged
    "attacked": (pa.bool_(), True),  # false: an attack left it alone, as those before had settled it (sequence.py)
    "distance": (pa.float32(), None),  # 0-255 units: the smallest perturbation that a minimal-norm attack found; inf: none
}
"""Columns that `check_predictions` adds where they are missing, with what they then hold."""

FULL_SCHEMA = pa.schema([*PREDICTION_SCHEMA, *(pa.field(name, kind) for name, (kind, _) in EXTRA_FIELDS.items())])

CROP = ("video_id", "frame_index", "track")
"""What a crop is known by."""
CLEAN_TOLERANCE = 1e-3
"""Relative difference of clean logits from attack to attack that rounding explains."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """The samples of one model under one attack and epsilon, frames or videos; arrays are (n,), in one order.

    Args:
        video_ids: full ids.
        labels: 1 = fake.
        datasets, methods: of each sample's video.
        clean, adversarial: logits.
        skipped: bool: an attack left it alone (of a video: some frame), so a stronger logit may have been missed.
        tracks: the person's number in the video, 0 is the subject; of a video 0.
    """

    video_ids: np.ndarray
    labels: np.ndarray
    datasets: np.ndarray
    methods: np.ndarray
    clean: np.ndarray
    adversarial: np.ndarray
    skipped: np.ndarray
    tracks: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, mask: np.ndarray) -> Scores:
        return Scores(**{name: array[mask] for name, array in vars(self).items()})

    def subjects(self) -> Scores:
        """Single frames of the people whom the videos are about: a label says nothing of others in a fake video."""
        return self.select(self.tracks == SUBJECT)

    def videos(self) -> Scores:
        """One sample a video: the mean of its frames' logits, all of them attacked; of several people the highest."""
        video_ids, clean = video_scores(self.clean, self.video_ids, self.tracks)
        _, adversarial = video_scores(self.adversarial, self.video_ids, self.tracks)
        _, first = np.unique(self.video_ids, return_index=True)
        facts = (self.labels[first], self.datasets[first], self.methods[first])
        skipped = np.isin(video_ids, self.video_ids[self.skipped])
        return Scores(video_ids, *facts, clean, adversarial, skipped, np.full(len(video_ids), SUBJECT))

    def attacked_on(self) -> np.ndarray:
        """(n,) logits as if every skipped sample had been driven past all others: no attack that went on could go further."""
        beyond = np.where(self.labels == 1, self.adversarial.min() - 1, self.adversarial.max() + 1)
        return np.where(self.skipped, beyond, self.adversarial)


def check_predictions(table: pa.Table) -> pa.Table:
    """The table with PREDICTION_SCHEMA and EXTRA_FIELDS, in a fixed order whatever the order of the work.

    Raises:
        UserError: empty, incomplete, a logit that is not finite, or clean logits that differ from attack to attack.
    """
    table = with_extra_fields(table).select(FULL_SCHEMA.names).cast(FULL_SCHEMA)
    if len(table) == 0:
        raise UserError("there are no predictions: the test split has no face crops; see the status tables of jobs.extract")
    keys = ["model", "attack", "epsilon", *CROP]
    table = table.sort_by([(key, "ascending") for key in keys])
    require_consistent(table)
    return table


def require_consistent(table: pa.Table) -> None:
    """Every attack on the same crops of the same model, with finite logits; the rows may be in any order.

    Raises:
        UserError: as `check_predictions`.
    """
    table = with_extra_fields(table)
    _require_finite(table)
    _require_same_crops(table)
    _require_same_clean_logits(table)


def with_extra_fields(table: pa.Table) -> pa.Table:
    """The table with every column of EXTRA_FIELDS."""
    for name, (kind, otherwise) in EXTRA_FIELDS.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.repeat(pa.scalar(otherwise, kind), len(table)))
    return table


def _require_finite(table: pa.Table) -> None:
    for column in ("clean", "adversarial"):
        bad = pc.index(pc.is_finite(table.column(column)), False).as_py()
        if bad >= 0:
            row = table.slice(bad, 1).to_pylist()[0]
            raise UserError(
                f"model {row['model']}: the {column} logit of {row['video_id']} frame {row['frame_index']} "
                f"({row['attack']}, epsilon {row['epsilon']:g}) is not finite; the checkpoint's weights have diverged"
            )


def _require_same_crops(table: pa.Table) -> None:
    """Every model must have met every attack on the same crops, each once."""
    cells = table.group_by(["model", "attack", "epsilon"]).aggregate([([], "count_all")])
    counts = cells.column("count_all").to_pylist()
    crops = len(table.group_by(list(CROP)).aggregate([]))
    expected = len(models_of(table)) * len(cells_of(table))
    if len(cells) != expected or set(counts) != {crops}:
        raise UserError(
            f"the evaluation is incomplete: {len(cells)} of {expected} model and attack combinations, with {min(counts)} to "
            f"{max(counts)} of {crops} crops each; run jobs.evaluate again"
        )


def _require_same_clean_logits(table: pa.Table) -> None:
    """The model that is attacked must be the one that is scored: deterministic, same weights, same mode."""
    spread = table.group_by(["model", *CROP]).aggregate([("clean", "min"), ("clean", "max")])
    low, high = (spread.column(name).to_numpy().astype(np.float64) for name in ("clean_min", "clean_max"))
    worst = int(np.argmax((high - low) / np.maximum(1, np.abs(low))))
    if high[worst] - low[worst] > CLEAN_TOLERANCE * max(1, abs(low[worst])):
        raise UserError(
            f"model {spread.column('model')[worst]}: the clean logit of {spread.column('video_id')[worst]} is "
            f"{low[worst]:.4f} before one attack and {high[worst]:.4f} before another; the model is random or changes "
            "between calls, so its figures under attack cannot be believed"
        )


def models_of(table: pa.Table) -> list[str]:
    return sorted(set(table.column("model").to_pylist()))


def cells_of(table: pa.Table) -> list[tuple[str, float]]:
    """All (attack, epsilon), in order."""
    groups = table.group_by(["attack", "epsilon"]).aggregate([])
    return sorted(zip(groups.column("attack").to_pylist(), groups.column("epsilon").to_pylist(), strict=True))


def frame_scores(table: pa.Table, model: str, attack: str, epsilon: float) -> Scores:
    """The frames of one cell of the evaluation, each person's; `subjects` and `videos` are what is reported."""
    chosen = (pc.field("model") == model) & (pc.field("attack") == attack) & (pc.field("epsilon") == epsilon)
    rows = table.filter(chosen)
    video_ids = np.array(rows.column("video_id").to_pylist(), dtype=str)
    return Scores(
        video_ids=video_ids,
        labels=rows.column("label").to_numpy().astype(np.int64),
        datasets=np.array([video_id.split("/", 1)[0] for video_id in video_ids], dtype=str),
        methods=np.array(rows.column("method").to_pylist(), dtype=str),
        clean=rows.column("clean").to_numpy().astype(np.float64),
        adversarial=rows.column("adversarial").to_numpy().astype(np.float64),
        skipped=~rows.column("attacked").to_numpy() if "attacked" in rows.column_names else np.zeros(len(rows), bool),
        tracks=tracks_of(rows),
    )


def tracks_of(table: pa.Table) -> np.ndarray:
    """(n,) the person's number of each row; SUBJECT where the table does not tell."""
    return table.column("track").to_numpy() if "track" in table.column_names else np.full(len(table), SUBJECT)


def identities_of_videos(table: pa.Table) -> tuple[list[str], list[Sequence[str]]]:
    """Each video once, and the identities in it."""
    found = dict(zip(table.column("video_id").to_pylist(), table.column("identities").to_pylist(), strict=True))
    return list(found), list(found.values())
