"""TensorBoard's files of a run, copied from its storage to a local folder as they grow, and the layout of its first
page.

TensorBoard can read s3:// itself, but from one endpoint and one account alone, and it lists all files at each look.
It reads a file that it has open on and on, and does not notice one that was put in its place, so what was added is
appended here.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path, PurePosixPath

from pyarrow.fs import FileSelector, FileType

from robust.errors import UserError
from robust.monitoring.tensorboard_layout import layout_event
from robust.storage import Storage, explain_arrow

EVENTS = "events.out.tfevents"
PARTS = {"tensorboard": "", "tune/trials": "tune"}
"""Folders of a run that hold event files, and where they go; Ray Tune writes its own, a folder a trial."""


LONGEST_S = 20.0
"""For one `sync`: a job that wants to start its S3 server waits for the end of it (cluster/local.py)."""


def sync(storage: Storage, run: str, folder: Path, *, longest_s: float = LONGEST_S) -> int:
    """Brings `folder` up to date with the run's event files; returns how many bytes were fetched.

    Raises: UserError: storage does not answer, or the time was not enough for all files; the next call goes on with the rest.
    """
    until, fetched, wanted = time.monotonic() + longest_s, 0, []
    for part, place in PARTS.items():
        filesystem, top = storage.arrow(f"{run}/{part}")
        with explain_arrow(storage.uri(f"{run}/{part}"), storage.config):
            found = filesystem.get_file_info(FileSelector(top, recursive=True, allow_not_found=True))
        for info in found:
            if info.type == FileType.File and EVENTS in info.base_name:
                inside = PurePosixPath(info.path).relative_to(
                    PurePosixPath(top.lstrip("/") if not info.path.startswith("/") else top)
                )
                wanted.append((filesystem, info, folder / place / Path(*inside.parts)))
    for number, (filesystem, info, local) in enumerate(wanted):
        if fetched and time.monotonic() > until:
            raise UserError(f"{number} of {len(wanted)} event files were read in {longest_s:g} s; the others follow.")
        fetched += _catch_up(filesystem, info, local, storage)
    present = {local for _, _, local in wanted}
    for gone in (
        {path for path in folder.rglob(f"*{EVENTS}*")}
        - present
        - {folder / "layout" / path.name for path in folder.glob("layout/*")}
    ):
        gone.unlink()
    return fetched


def _catch_up(filesystem, info, local: Path, storage: Storage) -> int:
    have = local.stat().st_size if local.exists() else 0
    if have > info.size:  # another file of the same name
        local.unlink()
        have = 0
    if have == info.size:
        return 0
    local.parent.mkdir(parents=True, exist_ok=True)
    with explain_arrow(storage.uri(), storage.config), filesystem.open_input_file(info.path) as source:
        source.seek(have)
        added = source.read(info.size - have)
    with open(local, "ab") as sink:
        sink.write(added)
    return len(added)


def write_layout(folder: Path) -> None:
    """The page Custom Scalars: one event file of its own beside the runs."""
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    shutil.rmtree(folder / "layout", ignore_errors=True)
    writer = EventFileWriter(str(folder / "layout"))
    writer.add_event(layout_event())
    writer.close()
