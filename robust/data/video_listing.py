"""What lies below a folder or bucket prefix, as columns: a million videos are some 100 MB, and no Python objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import pyarrow as pa

from robust.data.tree import is_hidden, is_video
from robust.object_stores import Entry
from robust.object_stores.address import holds_credentials

VIDEO_SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64()), ("version", pa.string())])
"""`path` is relative to what was listed; `version` an ETag or a time of change, "" where the store tells none."""
SKIPPED_SCHEMA = pa.schema([("path", pa.string()), ("reason", pa.string())])


@dataclasses.dataclass(frozen=True)
class Listing:
    """Everything that was found, once each, sorted by path: rows of VIDEO_SCHEMA, and of SKIPPED_SCHEMA."""

    videos: pa.Table
    skipped: pa.Table


def sort_out(
    pages: Iterable[list[Entry]], *, own: str | None = None, told: Callable[[int], None] = lambda count: None
) -> Listing:
    """A listing out of the pages of `Storage.scan`.

    Args:
        own: a folder of ours among them, which is left out.
        told: how many files each page had.
    """
    videos, skipped = [VIDEO_SCHEMA.empty_table()], [SKIPPED_SCHEMA.empty_table()]
    for page in pages:
        told(len(page))
        good, bad = [], []
        for path, size, version in page:
            reason = _why_not(path, size, own)
            if reason is None:
                good.append((path, size, version or ""))
            else:
                bad.append((path.encode("utf-8", "backslashreplace").decode(), reason))
        if good:
            videos.append(pa.table(list(zip(*good)), schema=VIDEO_SCHEMA))
        if bad:
            skipped.append(pa.table(list(zip(*bad)), schema=SKIPPED_SCHEMA))
    return Listing(*(pa.concat_tables(tables).sort_by("path").combine_chunks() for tables in (videos, skipped)))


def _why_not(path: str, size: int | None, own: str | None) -> str | None:
    """Why a file is not judged; None: it is."""
    if own is not None and path.startswith(f"{own}/"):
        return "written by this run"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "its key has an empty part, '.' or '..'; rename it"
    if is_hidden(path):
        return "hidden, or left by an archive"
    if not is_video(path):
        return "not a video by its name"
    if size is None:
        return "a link to nothing, or no file"
    if holds_credentials(path):  # no message may repeat such an address, and no storage opens it
        return "its name looks like a signed address; rename it"
    return None if _is_utf8(path) else "its name is not UTF-8; rename it"


def _is_utf8(path: str) -> bool:
    """Linux gives other names with lone surrogates in them."""
    try:
        path.encode()
        return True
    except UnicodeEncodeError:
        return False
