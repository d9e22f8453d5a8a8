"""Atomic and durable writes, also across kills and power cuts; names that are safe to print."""

import itertools
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

_HOST = blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()
_RUN = secrets.token_hex(4)  # distinguishes processes with equal process id: in containers, it is often 1
_COUNT = itertools.count()
_TEMPORARY = re.compile(r"\.restore-diff-([0-9a-f]{8})-(\d{1,9})-([0-9a-f]{8})-\d+\.tmp")
_ABANDONED_S = 24 * 3600
"""Age at which a temporary file of another machine counts as abandoned."""


def bundled(name: str) -> Path:
    """Return the folder of configs or data set cards: inside the package (wheel), else beside it (clone)."""
    inside = Path(__file__).resolve().parent / name
    return inside if inside.is_dir() else inside.parent.parent / name


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and sync its contents to disk. Its folder entry is not synced: see `sync_folder`."""
    with path.open("wb") as file:
        _write_and_sync(file, data)


def sync_folder(path: Path) -> None:
    """Sync the entries of a folder to disk, e.g. after a rename. Windows has no way to do so, and none is needed."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_atomically(path: Path, data: bytes) -> None:
    """Replace the contents of `path`: readers see the old or the new contents, never a part.

    Several processes may write at once; each uses its own hidden file beside `path`, and the last one wins.
    `remove_abandoned` removes the hidden files of killed processes. Raises OSError.
    """
    # The name does not contain that of `path`, which may have the maximum length of the file system.
    temporary = path.with_name(f".restore-diff-{_HOST}-{os.getpid()}-{_RUN}-{next(_COUNT)}.tmp")
    try:
        with temporary.open("xb") as file:
            _write_and_sync(file, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` at the end; after an exception nothing is left. Raises OSError."""
    if path.exists():
        raise FileExistsError(f"{printable(path)}: exists already; name a new folder, nothing is overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-diff-", dir=path.parent) as scratch:
        part = Path(scratch) / "part"
        part.mkdir()
        yield part
        part.rename(path)


def remove_abandoned(folders: Iterable[Path]) -> int:
    """Remove the temporary files of killed processes from these folders; return their number.

    Files of running processes are kept, and files of other machines for a day.
    """
    left_over = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if _is_abandoned(path)]
    for path in left_over:
        path.unlink(missing_ok=True)  # another process may remove it too
    return len(left_over)


def printable(text: object) -> str:
    """Escape control characters and bytes that are not UTF-8, so that a name cannot control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def _write_and_sync(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _is_abandoned(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None or path.is_symlink() or not path.is_file():
        return False
    host, process, run = match[1], int(match[2]), match[3]
    if host == _HOST and (run != _RUN if process == os.getpid() else not _is_running(process)):
        return True
    try:
        return time.time() - path.stat().st_mtime > _ABANDONED_S
    except FileNotFoundError:
        return False


def _is_running(process: int) -> bool:
    """Return whether a process of this machine runs; True where this cannot be determined (Windows)."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
