"""The zip files that torch writes, looked at without loading anything: their entries, sizes and pickles."""

from __future__ import annotations

import io
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Mapping

from robust.errors import UserError

MAX_ENTRIES = 100_000
MAX_SOURCE = 64 * 2**20
"""Bytes of unpacked source; a network of a thousand layers has about one MiB."""


def read_archive(content: bytes, where: str, *, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Entries of a zip file of torch, by their path below its one top folder; only those that are `wanted`.

    torch compresses nothing but source, so tensors and pickles can not be larger than the file, and the source is held
    to MAX_SOURCE; an archive whose table says otherwise is refused before anything is unpacked.

    Raises:
        UserError: no zip file, a truncated one, or one that torch would not write.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            _require_plain(infos, len(content), where)
            return {name: archive.read(info) for info in infos if wanted(name := info.filename.partition("/")[2])}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{where}: is not a whole file of torch ({type(error).__name__}: {error}); copy it again") from None


def _require_plain(infos: list[zipfile.ZipInfo], size: int, where: str) -> None:
    names = [info.filename for info in infos]
    if len(names) > MAX_ENTRIES or len(set(names)) != len(names):
        raise UserError(f"{where}: its archive has {len(names)} entries, {len(names) - len(set(names))} of them doubled; torch writes none such")
    if len({name.partition("/")[0] for name in names}) != 1 or not all("/" in name for name in names):
        raise UserError(f"{where}: its archive is not one folder of entries, as torch writes; save it again with torch")
    source = [info for info in infos if "/code/" in info.filename]
    if (unpacked := sum(info.file_size for info in source)) > MAX_SOURCE:
        raise UserError(f"{where}: its source unpacks to {unpacked} bytes, which no model has; it may be a zip bomb, and was not unpacked")
    for info in infos:
        if (info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size) and info not in source:
            raise UserError(f"{where}: {info.filename} is compressed ({info.compress_size} to {info.file_size} bytes), which torch never does; "
                            "it may be a zip bomb, and was not unpacked. Save it again with torch")
    if (stored := sum(info.file_size for info in infos if info not in source)) > size:  # entries may overlap
        raise UserError(f"{where}: its entries unpack to {stored} bytes and the file has {size}; it may be a zip bomb, and was not unpacked")


def write_archive(entries: Mapping[str, bytes]) -> io.BytesIO:
    """A new zip file of these entries alone: whoever reads it sees what was checked, and nothing else."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(f"archive/{name}", data)
    content.seek(0)
    return content


def require_pickle(data: bytes, where: str, *, opcodes: frozenset[str], allowed: Callable[[str], bool]) -> None:
    """Reads a pickle's instructions without following them.

    Args:
        opcodes: names of the instructions that may occur.
        allowed: whether a class or function, "module.name", may be named.
    Raises:
        UserError: it is damaged, or has others.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name not in opcodes:
                raise UserError(f"{where}: its pickle has the instruction {opcode.name}, which torch never writes; it was not loaded")
            if opcode.name == "GLOBAL" and not allowed(name := str(argument).replace(" ", ".")):
                raise UserError(f"{where}: its pickle names {name}, which no model needs; it was not loaded")
    except (ValueError, UnicodeDecodeError, IndexError, EOFError) as error:
        raise UserError(f"{where}: its pickle is damaged ({error}); copy it again") from None
