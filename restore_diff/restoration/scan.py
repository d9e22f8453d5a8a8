"""The images that lie in a folder: what a user means by "my photos", without links that loop, thumbnails, sockets."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
"""A file with such an ending is meant to be an image: when it cannot be read, that is a failure, nothing to ignore."""


@dataclass
class Scan:
    """`images` in order; how many files were `ignored`, by kind; `unreadable` files and folders with the reason."""

    images: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)


def scan_folder(root: Path, excluded: Path, is_image: Callable[[Path], bool], recursive: bool) -> Scan:
    """Find the images below `root`, but not below `excluded`, folder by folder in the order of their names.

    Hidden files and folders, links to folders, broken links, special files and files that are no image are ignored and
    counted. Whether a file without the ending of an image is one, `is_image` says from its content.
    """
    scan = Scan()

    def note_unreadable(error: OSError) -> None:
        scan.unreadable.append((Path(error.filename or root), error.strerror or str(error)))

    excluded = Path(os.path.realpath(excluded))
    for name, folders, files in os.walk(root, onerror=note_unreadable):
        folder = Path(name)
        entered = [child for child in sorted(folders) if recursive and not _same(folder / child, excluded)]
        kinds = {child: _kind_of_ignored_folder(folder / child) for child in entered}
        folders[:] = [child for child in entered if not kinds[child]]
        scan.ignored.update(kind for kind in kinds.values() if kind)
        for path in (folder / child for child in sorted(files)):
            try:
                kind = _kind_of_ignored_file(path, is_image)
            except OSError as error:
                note_unreadable(error)
                continue
            if kind:
                scan.ignored[kind] += 1
            else:
                scan.images.append(path)
    return scan


def _same(folder: Path, excluded: Path) -> bool:
    return excluded.exists() and folder.samefile(excluded)


def _kind_of_ignored_folder(folder: Path) -> str:
    """Why the walk does not enter a folder, or "" when it does. Links are never followed, so that the walk ends."""
    if folder.name.startswith("."):
        return "hidden folder"
    return "linked folder" if folder.is_symlink() else ""


def _kind_of_ignored_file(path: Path, is_image: Callable[[Path], bool]) -> str:
    """Why a file is not restored, or "" when it is. Raises OSError when its content is needed and cannot be had."""
    if path.name.startswith("."):
        return "hidden"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return "broken link"
        raise
    if not stat.S_ISREG(mode):
        return "special file"
    if path.suffix.lower() in IMAGE_ENDINGS or is_image(path):
        return ""
    return path.suffix.lower() or "without ending"
