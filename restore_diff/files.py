"""Files that exist whole or not at all, also after a kill or a power cut; names that are safe to print."""

import os
from hashlib import blake2b
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it. The folder's entry is not waited for: see `sync_folder`."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder, e.g. after a rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_atomically(path: Path, data: bytes) -> None:
    """Give `path` new contents; whoever reads it sees the old ones or the new ones, never a part."""
    # The name depends on the target alone, so that what a killed process left behind is used again and goes away; it is
    # short, because the target's own name may be as long as the file system allows.
    temporary = path.with_name(f".{blake2b(os.fsencode(path.name), digest_size=12).hexdigest()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        write_durably(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def printable(text: object) -> str:
    """The text with control characters, and bytes that are no UTF-8, escaped: a name must not move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))
