"""Where the images of a folder of tar files lie, byte for byte, so that any of them is read at once."""

import json
import logging
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pydantic import Field, TypeAdapter, ValidationError

from restore_diff.data.errors import DataError
from restore_diff.data.formats import SUFFIXES
from restore_diff.files import printable, replace_atomically
from restore_diff.schema import settings

log = logging.getLogger(__name__)

INDEX = "index.json"
FORMAT = "restore_diff tar index 1"
OURS = b'{"format": "restore_diff tar index'
"""How an index of this project begins, also a damaged one or one of a later version."""
NUM_THREADS = 8
END_READ_AT_ONCE = 2**20


@settings
class IndexedTar:
    """One tar file, as it was when it was indexed."""

    size: int = Field(ge=0)
    mtime_ns: int
    images: dict[str, tuple[int, int]]
    """Name in the tar file -> (first byte, number of bytes), in the order of the file."""

    def is_of(self, state: os.stat_result) -> bool:
        """Whether the file still has this size and time of change."""
        return (state.st_size, state.st_mtime_ns) == (self.size, self.mtime_ns)


@settings
class _IndexFile:
    format: str
    tars: dict[str, IndexedTar]


def tars_in(folder: Path) -> list[Path]:
    """The tar files directly in a folder, by name; hidden ones are ignored."""
    found = [path for path in folder.iterdir() if path.suffix == ".tar" and not path.name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def index_tars(folder: Path) -> dict[str, IndexedTar]:
    """The images in each tar file of a folder by the tar file's name.

    Read from `folder`/index.json; tar files of another size or time of change than there are read through, header by
    header, and the new index is written. Where that cannot be, it is made anew at each start. DataError for a tar file
    that is compressed, cut off or damaged, or that holds images which are links.
    """
    tars = tars_in(folder)
    path = folder / INDEX
    known = _read(path)
    states = {tar.name: tar.stat() for tar in tars}
    valid = {name: known[name] for name in states if name in known and known[name].is_of(states[name])}
    stale = [tar for tar in tars if tar.name not in valid]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        scanned = dict(zip((tar.name for tar in stale), pool.map(_scan, stale), strict=True))
    index = {tar.name: valid.get(tar.name) or scanned[tar.name] for tar in tars}
    if index.keys() != known.keys() or stale:
        _write(path, index)
    return index


def _read(path: Path) -> dict[str, IndexedTar]:
    """What an index file says; nothing where it is none of ours, or damaged."""
    try:
        content = TypeAdapter(_IndexFile).validate_python(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError, ValidationError):
        return {}
    is_sound = content.format == FORMAT and all(
        first >= 0 and length >= 0 and first + length <= tar.size
        for tar in content.tars.values()
        for first, length in tar.images.values()
    )
    return content.tars if is_sound else {}


def _write(path: Path, index: dict[str, IndexedTar]) -> None:
    tars = {
        name: {"size": tar.size, "mtime_ns": tar.mtime_ns, "images": tar.images} for name, tar in sorted(index.items())
    }
    try:
        if path.exists() and not _is_ours(path):
            raise OSError("a file of this name, of another program, is there")
        replace_atomically(path, json.dumps({"format": FORMAT, "tars": tars}).encode())
    except OSError as error:
        reason = error.strerror or error
        log.warning("%s: not written (%s): the tar files are indexed anew at each start", printable(path), reason)


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(OURS)) == OURS


def _scan(tar: Path) -> IndexedTar:
    """Read the header of each member. DataError."""
    with tar.open("rb") as file:
        state = os.fstat(file.fileno())
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                images = {name: (member.offset_data, member.size) for name, member in _images(tar, archive)}
                end = archive.offset
        except tarfile.TarError as error:
            raise DataError(
                f"{printable(tar)}: not an uncompressed tar file, or cut off ({error}); make it again"
            ) from error
        _require_end(tar, file, end)
    return IndexedTar(size=state.st_size, mtime_ns=state.st_mtime_ns, images=images)


def _images(tar: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """What is an image by its suffix; hidden files are ignored."""
    seen = set()
    for member in archive:
        path = PurePosixPath(member.name)
        is_hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in path.parts)
        if path.suffix.lower() not in SUFFIXES or member.isdir() or is_hidden:
            continue
        where = f"{printable(tar)}: {printable(member.name)}"
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{where}: the name leads out of the tar file; make it again with relative names")
        if not member.isreg() or member.issparse():
            raise DataError(f"{where} is no plain file; make the tar file again with --dereference --hard-dereference")
        if path in seen:
            raise DataError(f"{where} is there twice; make the tar file again")
        seen.add(path)
        yield str(path), member


def _require_end(tar: Path, file: BinaryIO, end: int) -> None:
    """Zeros end a tar file. Its module takes damage, a cut and a second archive for the end, in silence."""
    file.seek(end)
    rest = file.read(END_READ_AT_ONCE)
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise DataError(f"{printable(tar)}: cut off, damaged or two archives in one, at byte {end:,}; make it again")
