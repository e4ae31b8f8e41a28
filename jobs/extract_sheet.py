"""The contact sheet of a run's crops: made by every extraction that changed the table, and by `python -m jobs.extract --sheet`.

What it shows is in robust/evaluation/contact_sheet.py. A page that cannot be made is told and harms nothing else.
"""

from __future__ import annotations

import sys

from jobs.run_folder import RunFolder
from robust.config import Config
from robust.data.shards import Committed, read_committed
from robust.errors import UserError
from robust.evaluation.contact_sheet import contact_sheet, mark_of
from robust.storage import Storage, explain_arrow

SHEET = "sheet.html"


def make_sheet(config: Config, storage: Storage) -> dict:
    """`--sheet`: makes the page whether or not there is one; extracts nothing.

    Raises:
        UserError: there is no such run, nothing is extracted, or a shard cannot be read.
    """
    folder = RunFolder(storage, config)
    if not storage.exists(folder.config_key):
        raise UserError(f"there is no run {config.run.name} in {storage.uri()}; run jobs.extract first")
    folder.require_same("extract")
    committed = read_committed(storage, config.run.name)
    if not len(committed.table):
        raise UserError(f"nothing is extracted yet in run {config.run.name}; run jobs.extract first")
    status = committed.current()
    page = contact_sheet(storage, config, committed, status, mark_of(committed, status, config)).encode()
    storage.write_bytes(folder.key("extract", SHEET), page)
    return {"summary": f"contact sheet of {len(status)} videos, {len(page) / 1e6:.1f} MB: "
                       f"{storage.uri(folder.key('extract', SHEET))}"}


def keep_sheet(config: Config, storage: Storage, committed: Committed) -> list[str]:
    """Makes the page anew if it is not of this table; returns why it could not be made, or nothing."""
    key = RunFolder(storage, config).key("extract", SHEET)
    try:
        status = committed.current()
        mark = mark_of(committed, status, config)
        if key not in committed.keys or not _is_of(storage, key, mark):
            storage.write_bytes(key, contact_sheet(storage, config, committed, status, mark).encode())
        return []
    except Exception as error:  # the crops are there and right; nobody shall lose them to a page about them
        told = f"no contact sheet: {error if isinstance(error, UserError) else f'{type(error).__name__}: {error}'}"
        print(f"extract: warning: {told}; python -m jobs.extract --sheet tries again", file=sys.stderr, flush=True)
        return [told]


def _is_of(storage: Storage, key: str, mark: str) -> bool:
    """Whether the page begins with this mark; only its beginning is fetched."""
    filesystem, path = storage.arrow(key)
    with explain_arrow(storage.uri(key), storage.config), filesystem.open_input_file(path) as source:
        return source.read_at(min(len(mark), source.size()), 0) == mark.encode()


