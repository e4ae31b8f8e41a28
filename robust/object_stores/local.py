"""Objects as files below a local folder."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robust.errors import UserError
from robust.object_stores import Entry, MissingObject

PARTIAL = ".partial"


class LocalObjects:
    """Objects as files. A write goes to a hidden partial file beside its target, then takes the target's name."""

    def __init__(self, root: str):
        self.root = root

    def _path(self, key: str) -> Path:
        return Path(self.root, key)

    def check(self) -> None:
        with explain_local("create", self.root):
            Path(self.root).mkdir(parents=True, exist_ok=True)
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise UserError(f"the folder {self.root} cannot be written; change storage.uri or its permissions.")

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def read(self, key: str) -> bytes:
        with explain_local("read", self._path(key)):
            return self._path(key).read_bytes()

    def write(self, key: str, data: bytes, if_absent: bool) -> bool:
        with self._written(key, if_absent) as (partial, outcome):
            partial.write_bytes(data)
        return outcome["written"]

    def upload(self, local_path: Path, key: str) -> None:
        with self._written(key, if_absent=False) as (partial, _):
            shutil.copyfile(local_path, partial)

    def download(self, key: str, partial: Path) -> None:
        with explain_local("read", self._path(key)):
            shutil.copyfile(self._path(key), partial)

    @contextmanager
    def _written(self, key: str, if_absent: bool):
        """Gives a partial file to fill; at the end it becomes the object."""
        target, outcome = self._path(key), {"written": True}
        partial = partial_path(target)
        with explain_local("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield partial, outcome
                if if_absent:
                    outcome["written"] = _link(partial, target)
                else:
                    partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)

    def list(self, folder: str) -> list[str]:
        top = Path(self.root, folder)
        files = (Path(parent, name) for parent, _, names in os.walk(top) for name in names)
        return [path.relative_to(self.root).as_posix() for path in files
                if not (path.name.startswith(".") and path.name.endswith(PARTIAL))]

    def scan(self, folder: str) -> Iterator[list[Entry]]:
        """See Storage.scan. Links are followed, and no folder is entered twice: what a link leads to is listed under its own name."""
        top, seen = Path(self.root, folder), set()
        real_top = Path(os.path.realpath(top))

        def is_new(path: str) -> bool:
            if os.path.islink(path):
                real = Path(os.path.realpath(path))
                if real.is_relative_to(real_top) and not _is_hidden(real.relative_to(real_top)):
                    return False  # or a link that is added later would rename what is listed already
            elif _is_hidden(Path(path).relative_to(top)):
                return True  # and is again where a link shows it
            found = os.stat(path)
            known = (found.st_dev, found.st_ino) in seen
            seen.add((found.st_dev, found.st_ino))
            return not known

        with explain_local("list", top):
            is_new(os.fspath(top))
            for parent, folders, names in os.walk(top, onerror=_raise, followlinks=True):
                folders[:] = [name for name in sorted(folders) if is_new(os.path.join(parent, name))]
                inside = os.path.relpath(parent, self.root)
                yield [_entry(parent, name, name if inside == "." else f"{inside}/{name}") for name in sorted(names)]

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            with explain_local("delete", self._path(key)):
                self._path(key).unlink(missing_ok=True)


def _entry(folder: str, name: str, key: str) -> Entry:
    """Of a link to nothing and of what is no file, which a reader could wait for without end, size and version are not known."""
    try:
        found = os.stat(os.path.join(folder, name))
    except OSError:
        return key, None, None
    if not stat.S_ISREG(found.st_mode):
        return key, None, None
    return key, found.st_size, str(found.st_mtime_ns)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _raise(error: OSError) -> None:
    """os.walk would pass over a folder that it may not read."""
    raise error


def _link(source: Path, target: Path) -> bool:
    """Gives a file a second name; False when the name is taken. Atomic, unlike looking first."""
    try:
        os.link(source, target)
        return True
    except FileExistsError:
        return False


@contextmanager
def explain_local(action: str, path):
    try:
        yield
    except FileNotFoundError as error:
        raise MissingObject(f"cannot {action} {path}: {error.filename or path} does not exist.") from error
    except OSError as error:
        raise UserError(f"cannot {action} {path}: {error.strerror or error}; check the folder's permissions, type and "
                        "free space.") from error


def partial_path(path: Path) -> Path:
    """A hidden name beside `path`, of its own for each write."""
    return path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}{PARTIAL}")
