"""Images in zip files: FOLDER/NAME.zip/MEMBER is a path like any other, read by random access."""

import errno
import io
import os
import struct
import threading
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from restore_diff.data.names import SUFFIXES, DataError
from restore_diff.files import printable

MAX_OPEN = 128
"""Zip files that a process keeps open."""
BUFFER_BYTES = 2**16
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, then the lengths of the name and of the extra field. APPNOTE.TXT, section 4.3.7."""
NOT_A_ZIP = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error)
"""Raised by zipfile for damaged directories."""


class _Member(NamedTuple):
    header: int
    """First byte of its local header."""
    stored_bytes: int
    num_bytes: int
    is_deflated: bool


class _Directory(NamedTuple):
    """The images of a zip file, and its size and modification time when the list was read."""

    state: tuple[int, int]
    members: dict[str, _Member]


_directories: dict[Path, _Directory] = {}


def zips_in(folder: Path) -> list[Path]:
    """Return the zip files directly in a folder, sorted by name; hidden files are ignored."""
    found = [path for path in folder.iterdir() if path.suffix == ".zip" and not path.name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def images_in_zips(folder: Path) -> list[Path]:
    """Return the images in all zip files of a folder, by suffix, as paths FOLDER/NAME.zip/MEMBER.

    Hidden members are ignored. DataError for a damaged zip file and for members that are encrypted, compressed by a
    method other than deflate, duplicated, absolute or above the zip file's own folder.
    """
    images = []
    for path in zips_in(folder):
        _directories[path] = _read_directory(path)
        images += [path / name for name in _directories[path].members]
    return images


def is_file(path: Path) -> bool:
    """Return whether the path is a regular file or a member of a zip file."""
    return in_zip(path) or path.is_file()


def in_zip(path: Path) -> bool:
    """Return whether the path is a member of a zip file."""
    return _find(path) is not None


def num_bytes(path: Path) -> int:
    """Return the length of a file or of a member of a zip file. Raises OSError."""
    found = _find(path)
    return path.stat().st_size if found is None else found[1].num_bytes


def open_file(path: Path) -> io.BufferedReader | io.BytesIO:
    """Open a file or a member of a zip file; only the requested bytes of a stored member are read. Raises OSError."""
    found = _find(path)
    if found is None:
        return path.open("rb")
    zip_path, member = found
    state = _directories[zip_path].state
    handle = _open(zip_path, state, os.getpid())
    if _state(os.fstat(handle.file.fileno())) != state:
        raise OSError(errno.ESTALE, f"{zip_path.name} has changed since it was listed; start again")
    signature, *lengths = LOCAL_HEADER.unpack(handle.read(member.header, LOCAL_HEADER.size))
    if signature != b"PK\3\4":
        raise OSError(errno.EIO, f"{zip_path.name} is damaged at byte {member.header:,}; make it again")
    first = member.header + LOCAL_HEADER.size + sum(lengths)
    if not member.is_deflated:
        return io.BufferedReader(_Stored(handle, first, member.num_bytes), BUFFER_BYTES)
    try:
        return io.BytesIO(zlib.decompressobj(-15).decompress(handle.read(first, member.stored_bytes), member.num_bytes))
    except zlib.error as error:
        raise OSError(errno.EIO, f"damaged in {zip_path.name} ({error}); make it again") from error


def _read_directory(path: Path) -> _Directory:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            state = _state(os.fstat(file.fileno()))
            infos = archive.infolist()
    except NOT_A_ZIP as error:
        raise DataError(f"{printable(path)}: not a zip file, damaged or cut off ({error}); make it again") from error
    if infos and min(info.header_offset for info in infos) != 0:
        raise DataError(f"{printable(path)}: damaged, or two archives in one file; make it again")
    members: dict[str, _Member] = {}
    for info in infos:
        name = PurePosixPath(info.filename)
        is_hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in name.parts)
        if info.is_dir() or is_hidden or name.suffix.lower() not in SUFFIXES:
            continue
        if problem := _problem(info, name, str(name) in members, state[0]):
            raise DataError(f"{printable(path)}: {printable(info.filename)} {problem}; make the zip file again")
        is_deflated = info.compress_type == zipfile.ZIP_DEFLATED
        members[str(name)] = _Member(info.header_offset, info.compress_size, info.file_size, is_deflated)
    return _Directory(state, members)


def _problem(info: zipfile.ZipInfo, name: PurePosixPath, is_duplicate: bool, zip_bytes: int) -> str:
    if name.is_absolute() or ".." in name.parts:
        return "is not a name below the zip file"
    if is_duplicate:
        return "is there twice"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by another method than deflate"
    if info.header_offset + LOCAL_HEADER.size + info.compress_size > zip_bytes:
        return "ends after the end of the file"
    return ""


def _state(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _find(path: Path) -> tuple[Path, _Member] | None:
    """Return the zip file and the entry of a member; None for other paths."""
    if ".zip/" not in path.as_posix():  # nearly always
        return None
    for parent in path.parents:
        if parent.suffix == ".zip" and (parent in _directories or parent.is_file()):
            if parent not in _directories:  # a spawned process
                _directories[parent] = _read_directory(parent)
            member = _directories[parent].members.get(path.relative_to(parent).as_posix())
            return member and (parent, member)
    return None


class _Handle:
    """An open zip file. Threads share it under a lock; closed with its last reader."""

    def __init__(self, path: Path):
        self.file = path.open("rb", buffering=0)
        self._lock = threading.Lock()

    def read(self, first: int, count: int) -> bytes:
        """Return up to `count` bytes from position `first`; fewer at the end of the file."""
        with self._lock:
            self.file.seek(first)
            data = b""
            while len(data) < count and (more := self.file.read(count - len(data))):
                data += more
        if len(data) < count:
            raise OSError(errno.EIO, f"{Path(self.file.name).name} was cut off while it was read")
        return data

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


@lru_cache(MAX_OPEN)
def _open(path: Path, state: tuple[int, int], process: int) -> _Handle:
    """Return a handle of this process, because forked processes would share its position, for this file state."""
    return _Handle(path)


class _Stored(io.RawIOBase):
    """A member that is stored without compression."""

    def __init__(self, handle: _Handle, first: int, length: int):
        self._handle, self._first, self._length, self._position = handle, first, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence] + offset
        if position < 0:
            raise OSError(errno.EINVAL, "seek before the start of the file")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._length - self._position))
        view[:count] = self._handle.read(self._first + self._position, count)
        self._position += count
        return count
