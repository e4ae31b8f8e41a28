"""The picture of a verdict: the sampled frames, the judged face boxed in the colour of its score."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robust.data.crop import shrink
from robust.detection import Examination, FrameScore, Verdict

COLUMNS = 5
FRAME_SIDE = 240
PHOTOGRAPH_SIDE = 960
"""Longer side of a frame in the strip of a video, and of a photograph, which stands alone; pixels."""
MARGIN, LINE, SMALLEST_CELL, SMALLEST_SHEET = 6, 18, 220, 480
PAPER, INK, GREY = (250, 250, 250), (30, 30, 30), (140, 140, 140)
REAL_COLOUR, UNSURE_COLOUR, FAKE_COLOUR = (0, 140, 90), (235, 175, 0), (215, 40, 40)


def contact_strip(examination: Examination) -> bytes | None:
    """A PNG of all sampled frames with scores; None if no frame could be decoded.

    The judged face is boxed from green (real) over yellow (at the threshold) to red (fake), other faces in grey.
    """
    verdict, pictures = examination.verdict, examination.pictures
    if len(pictures) == 0:
        return None
    small = shrink(pictures, longer_side=FRAME_SIDE if len(pictures) > 1 else PHOTOGRAPH_SIDE)
    scale = max(small.shape[1:3]) / max(pictures.shape[1:3])
    tiles = [draw_tile(frame, score, others, threshold=verdict.threshold, scale=scale)
             for frame, score, others in zip(small, verdict.frames, examination.other_boxes, strict=True)]
    return _png(_arrange(tiles, _headline(verdict)))


def draw_tile(
    picture: np.ndarray, frame: FrameScore, other_boxes: Sequence[np.ndarray], *, threshold: float, scale: float
) -> Image.Image:
    """One frame with its boxes and a line of text below.

    Args:
        picture: (h, w, 3) uint8, the frame already shrunk by `scale`; the boxes are in pixels of the whole frame.
    """
    height, width = picture.shape[:2]
    tile = Image.new("RGB", (max(width, SMALLEST_CELL), height + LINE), PAPER)
    tile.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(tile)
    for box in other_boxes:
        draw.rectangle(scaled_box(box, scale, width, height), outline=GREY, width=2)
    text, ink = f"#{frame.frame_index}  {frame.timestamp_s:.2f} s  ", GREY
    if frame.logit is None:
        text += "no face"
    else:
        draw.rectangle(scaled_box(frame.box, scale, width, height), outline=colour(frame.logit, threshold), width=3)
        text, ink = f"{text}{frame.logit:+.2f}", INK
    draw.text((2, height + 2), text, fill=ink, font=ImageFont.load_default(12))
    return tile


def colour(logit: float, threshold: float) -> tuple[int, int, int]:
    """Green far below the threshold, yellow at it, red far above."""
    share = 1 / (1 + float(np.exp(np.clip(threshold - logit, -50, 50))))
    low, high = (REAL_COLOUR, UNSURE_COLOUR) if share < 0.5 else (UNSURE_COLOUR, FAKE_COLOUR)
    place = 2 * share if share < 0.5 else 2 * share - 1
    return tuple(round(a + (b - a) * place) for a, b in zip(low, high))


def scaled_box(box, scale: float, width: int, height: int) -> tuple[float, ...]:
    """The box in the small picture, ending at its edges."""
    x0, y0, x1, y1 = (float(value) * scale for value in box)
    return max(x0, 0), max(y0, 0), min(x1, width - 1), min(y1, height - 1)


def _headline(verdict: Verdict) -> tuple[str, str]:
    if verdict.score is None:
        return f"{verdict.verdict}: {verdict.reason}", verdict.name
    scored = f"score {verdict.score:+.2f}  threshold {verdict.threshold:+.2f}"
    return f"{verdict.verdict}  {scored}", verdict.name


def _arrange(tiles: Sequence[Image.Image], lines: tuple[str, ...]) -> Image.Image:
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = tiles[0].size
    top = MARGIN + LINE * len(lines) + MARGIN
    size = (max(MARGIN + columns * (width + MARGIN), SMALLEST_SHEET), top + rows * (height + MARGIN))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        ink = INK if number == 0 else GREY
        draw.text((MARGIN, MARGIN + number * LINE), line, fill=ink, font=ImageFont.load_default(13))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (MARGIN + column * (width + MARGIN), top + row * (height + MARGIN)))
    return sheet


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
