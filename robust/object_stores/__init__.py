"""Where robust/storage.py keeps its objects: one file a kind of store, all with the same few verbs.

A store has `root` keys already checked by Storage, and the verbs check, exists, read, write, upload, download, list, scan
and delete. Each raises UserError or MissingObject with one sentence, whatever the store's own errors are.
"""

from robust.errors import UserError


class MissingObject(UserError):
    """There is no object under this key."""


Entry = tuple[str, int | None, str | None]
"""Of a listing: key, size in bytes, and what changes whenever the content does: an ETag or a time of change."""
