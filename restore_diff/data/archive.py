"""Data sets in few large files: index and reading."""

import errno
import io
import json
import logging
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from restore_diff.data.names import SUFFIXES, DataError
from restore_diff.files import printable, replace_atomically
from restore_diff.settings import settings

# Where the images of a folder of tar files lie, byte for byte, so that any of them is read at once.

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


# Files to read, be they on the disk or in tar files: FOLDER/NAME.tar/MEMBER is a path like any other.

NUM_OPEN = 128
"""Tar files that a process keeps open."""
READ_AT_ONCE = 2**16

_indexes: dict[Path, dict[str, IndexedTar]] = {}


class _Place(NamedTuple):
    tar: Path
    state: IndexedTar
    first: int
    length: int


def refresh_index(folder: Path) -> dict[str, IndexedTar]:
    """The index of the tar files in a folder, as they lie there now. Raises DataError."""
    _indexes[folder] = index_tars(folder)
    return _indexes[folder]


def is_file(path: Path) -> bool:
    """Whether it is a regular file, or a file in a tar file."""
    return _find(path) is not None or path.is_file()


def num_bytes(path: Path) -> int:
    """The length of a file, also of one in a tar file. Raises OSError."""
    place = _find(path)
    return path.stat().st_size if place is None else place.length


def open_file(path: Path) -> io.BufferedReader:
    """Open a file to read it, also one in a tar file, of which then only what is asked for is read. Raises OSError."""
    place = _find(path)
    return path.open("rb") if place is None else io.BufferedReader(_Member(place), READ_AT_ONCE)


def in_tar(path: Path) -> bool:
    """Whether it is a file in a tar file."""
    return _find(path) is not None


class _Member(io.RawIOBase):
    """A file in a tar file. Threads and forked processes share the descriptor: it has no position of its own."""

    def __init__(self, place: _Place):
        self._place, self._position = place, 0
        self._descriptor = _open(place.tar, place.state.size, place.state.mtime_ns)
        if not place.state.is_of(os.fstat(self._descriptor.number)):
            raise OSError(errno.ESTALE, f"{place.tar.name} has changed since it was indexed; start again")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._place.length}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "a place before the file was asked for")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the position on; the number of bytes. OSError where the tar was cut off meanwhile."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._place.length - self._position))
        data = os.pread(self._descriptor.number, wanted, self._place.first + self._position)
        if wanted and not data:
            raise OSError(errno.EIO, f"{self._place.tar.name} was cut off while it was read")
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Descriptor:
    """Closed when the last reader lets go of it."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@lru_cache(NUM_OPEN)
def _open(tar: Path, size: int, mtime_ns: int) -> _Descriptor:
    """The state is part of the key: a tar file that was replaced, and indexed again, is opened again."""
    return _Descriptor(os.open(tar, os.O_RDONLY))


def _find(path: Path) -> _Place | None:
    if ".tar/" not in path.as_posix():  # nearly always: nothing more is asked
        return None
    for tar in path.parents:
        if tar.suffix == ".tar" and (tar.parent in _indexes or tar.is_file()):
            # A spawned process does not have the index yet.
            index = _indexes.get(tar.parent) or refresh_index(tar.parent)
            state = index.get(tar.name)
            place = state and state.images.get(path.relative_to(tar).as_posix())
            return _Place(tar, state, *place) if state and place else None
    return None
