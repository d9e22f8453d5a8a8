"""Files to read, be they on the disk or in tar files: FOLDER/NAME.tar/MEMBER is a path like any other."""

import errno
import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from restore_diff.data.tar_index import IndexedTar, index_tars

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
