"""From an uploaded file to an examination: the steps of jobs.detect, many requests at a time.

One file is decoded at a time, in the child process of robust/data/decoder_process.py, while faces are looked for in
another; who scores the crops may be elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from robust.config import ExtractConfig
from robust.data.decoder_process import DecodeLimits, shared_decoder
from robust.data.extraction import Source
from robust.data.faces import FaceDetector
from robust.data.images import decode_image
from robust.data.video import DecodedVideo, unreadable
from robust.detection import (
    MAX_IMAGE_BYTES,
    VIDEO,
    Examination,
    FoundFaces,
    Threshold,
    conclude,
    find_faces,
    score_crops,
)
from robust.models.detector import Detector
from robust.serving.errors import ServiceError
from robust.serving.upload import Upload

FILES_IN_MEMORY = 4
"""Whose frames are kept at a time: one that is decoded, one that is looked at, two that are scored or wait in between."""

Score = Callable[[list[bytes]], Awaitable[np.ndarray]]
"""Takes N encoded face crops, gives their (N,) logits."""


class UploadJudge:
    """Examines uploads; nothing in a file can make it raise but a ServiceError.

    Args:
        extract, frames, thresholds, face_detector: as of robust.detection.Examiner.
        score: of the model.
    """

    def __init__(self, extract: ExtractConfig, frames: int, thresholds: dict[str, Threshold],
                 face_detector: FaceDetector, score: Score):
        self.extract, self.frames, self.thresholds = extract, frames, thresholds
        self.face_detector, self.score = face_detector, score
        self._limits = DecodeLimits.of(extract)
        self._decoding, self._looking = (ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("decode", "faces"))
        self._room = asyncio.Semaphore(FILES_IN_MEMORY)
        shared_decoder(self._limits).start()

    async def examine(self, upload: Upload, *, name: str, kind: str, deadline: float) -> Examination:
        """Args: deadline: of time.monotonic(); nothing that has not begun by then is begun.

        Raises:
            ServiceError: 422 the file cannot be read, 504 the time is up.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline - time.monotonic()), self._room:
                decoded = await loop.run_in_executor(self._decoding, self._decode, upload, kind, deadline)
                if decoded.status == "unreadable":
                    raise ServiceError(422, f"the file cannot be read: {decoded.reason}")
                found = await loop.run_in_executor(self._looking, self._look, upload, name, kind, decoded, deadline)
                logits = await self.score(found.images) if found.crops else np.zeros(0)
                return conclude(found, logits, self.thresholds[kind])
        except TimeoutError:
            raise ServiceError(504, "it took too long; send a shorter or smaller file, or try again later") from None

    def _decode(self, upload: Upload, kind: str, deadline: float) -> DecodedVideo:
        left_s = _left(deadline)
        decoder = shared_decoder(self._limits)
        if kind == VIDEO:
            decoded = decoder.read_frames(upload.path, count=self.frames, timeout_s=left_s)
        elif upload.size > MAX_IMAGE_BYTES:
            return unreadable(f"{upload.size} bytes, more than an image has ({MAX_IMAGE_BYTES})")
        else:
            decoded = decoder.read_image(upload.path, timeout_s=left_s)
        _left(deadline)  # cut short by this request's time, it says nothing of the file
        return decoded

    def _look(self, upload: Upload, name: str, kind: str, decoded: DecodedVideo, deadline: float) -> FoundFaces:
        _left(deadline)
        source = Source(upload.path, upload.size, None)
        return find_faces(name, f"sha256:{upload.sha256}", kind, decoded, source, self.extract, self.face_detector)


def score_here(model: Detector) -> Score:
    """The model in this process, one request at a time."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def score(crops: list[bytes]) -> np.ndarray:
        return await asyncio.get_running_loop().run_in_executor(pool, score_encoded, model, crops)

    return score


def score_encoded(model: Detector, crops: list[bytes]) -> np.ndarray:
    return score_crops(model, [decode_image(crop) for crop in crops])


def _left(deadline: float) -> float:
    """Raises: TimeoutError: nothing is."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
