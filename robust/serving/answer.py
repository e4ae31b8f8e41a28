"""What the endpoint answers: its JSON, and the schema of it for OpenAPI."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from robust.detection import Examination, Threshold, Verdict
from robust.serving.pictures import frame_pictures


class About(BaseModel):
    """What every verdict is given with, as in verdicts.json of jobs.detect."""

    checkpoint: dict[str, Any] = Field(description="what tells it from another: sha256, model, run, epoch, architecture, code")
    thresholds: dict[str, Threshold] = Field(description="by kind, video and image: scores above are called fake")
    settings: dict[str, Any] = Field(description="frames and the settings of the crops")
    warnings: list[str] = Field(description="settings of the crops that differ from those of the model's training")


class Picture(BaseModel):
    frame_index: int
    image: str = Field(description="a small JPEG as data URI")
    width: int
    height: int
    box: list[float] | None = Field(description="x0, y0, x1, y1 of the judged face, pixels of this picture")
    other_boxes: list[list[float]]


class Answer(About):
    """A verdict with what it was given with."""

    schema_: int = Field(1, alias="schema")
    verdict: Verdict
    pictures: list[Picture] | None = Field(None, description="the sampled frames, with pictures=true")


class ErrorFacts(BaseModel):
    type: str
    message: str


class Error(BaseModel):
    error: ErrorFacts


def answer(examination: Examination, about: About, *, pictures: bool) -> dict:
    """The document for one file."""
    return {
        "schema": 1,
        "verdict": examination.verdict.as_dict(),
        **about.model_dump(),
        "pictures": frame_pictures(examination) if pictures else None,
    }
