"""Files that exist whole or not at all, also after a kill or a power cut; names that are safe to print."""

import itertools
import os
import re
import secrets
import socket
import time
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

_HOST = blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()
_RUN = secrets.token_hex(4)  # tells this process from a dead one of its number: in containers, all are number 1
_COUNT = itertools.count()
_TEMPORARY = re.compile(r"\.restore-diff-([0-9a-f]{8})-(\d{1,9})-([0-9a-f]{8})-\d+\.tmp")
_ABANDONED_S = 24 * 3600
"""No file takes a day to write: an older temporary one is left over, also that of a machine that cannot be asked."""


def bundled(name: str) -> Path:
    """The folder of configs or data set cards that belongs to the package: inside a wheel, or beside it in a clone."""
    inside = Path(__file__).resolve().parent / name
    return inside if inside.is_dir() else inside.parent.parent / name


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it. The folder's entry is not waited for: see `sync_folder`."""
    with path.open("wb") as file:
        _write_and_sync(file, data)


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder, e.g. after a rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_atomically(path: Path, data: bytes) -> None:
    """Give `path` new contents; whoever reads it sees the old ones or the new ones, never a part.

    Any number of processes may do so at once: each writes under a hidden name of its own beside `path`, and the last
    one wins. What a killed process leaves there, `remove_abandoned` finds.
    """
    # Short, and not made from the target's name, which may be as long as the file system allows.
    temporary = path.with_name(f".restore-diff-{_HOST}-{os.getpid()}-{_RUN}-{next(_COUNT)}.tmp")
    try:
        with temporary.open("xb") as file:
            _write_and_sync(file, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_abandoned(folders: Iterable[Path]) -> int:
    """Remove the temporary files that processes of ours left in these folders when they were killed; how many.

    Not those of a process that may still write: one that lives, or one of another machine, for a day.
    """
    left_over = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if _is_abandoned(path)]
    for path in left_over:
        path.unlink(missing_ok=True)  # another process may be tidying too
    return len(left_over)


def printable(text: object) -> str:
    """The text with control characters, and bytes that are no UTF-8, escaped: a name must not move the cursor."""
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
    if host == _HOST and (run != _RUN if process == os.getpid() else not _lives(process)):
        return True
    try:
        return time.time() - path.stat().st_mtime > _ABANDONED_S
    except FileNotFoundError:
        return False


def _lives(process: int) -> bool:
    """Whether a process of this machine still runs; where that cannot be asked, as on Windows, it may."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
