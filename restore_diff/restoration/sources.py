"""The images that lie in a folder: what a user means by "my photos", without links that loop, thumbnails, sockets."""

import errno
import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePath
from typing import NamedTuple

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


# What the user named as input: images, folders, patterns that no shell expanded, and lists of all these.

ScanFolder = Callable[[Path, bool], Scan]
"""(folder, whether its subfolders are entered) -> the images in it."""


class PlanError(ValueError):
    """Input, output and names do not fit together; each of `args` is a line for the user."""


class Source(NamedTuple):
    path: Path
    name: PurePath
    """Where it belongs below the output folder: relative, without "..", with the ending of the source."""


@dataclass
class Sources:
    """`images` in order; how many files were `ignored`, by kind; `unreadable` files and folders with the reason."""

    images: list[Source] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)

    def add_folder(self, folder: Path, scan: Scan, below: PurePath) -> None:
        """The images of a scanned folder, which is mirrored at `below`."""
        self.images += [Source(path, below / path.relative_to(folder)) for path in scan.images]
        self.ignored.update(scan.ignored)
        self.unreadable += scan.unreadable


def find_sources(
    inputs: Sequence[str], output: Path, is_image: Callable[[Path], bool], recursive: bool = True
) -> Sources:
    """The images that `inputs` name; each is one of

    - a file, which goes into the output folder by its name;
    - a folder, which is mirrored there, with subfolders if `recursive`, without `output` if that lies inside;
    - a pattern such as "photos/**/*.jpg", where no file has that name: what matches is mirrored from photos/ on;
    - "@FILE", a list of files and folders, one a line (or with NUL between them): a relative path is mirrored as it
      stands there, an absolute one, or one with "..", goes into the output folder by its last name.

    A listed file that does not exist is unreadable. PlanError for everything else that does not exist, and for a folder
    that is the output folder.
    """
    sources = Sources()

    def scan(folder: Path, deep: bool) -> Scan:
        return scan_folder(folder, output, is_image, deep)

    for text in inputs:
        if text.startswith("@"):
            for line in _lines(Path(text[1:])):
                _add_listed(sources, line, output, scan, recursive)
        elif glob.has_magic(text) and not os.path.lexists(text):
            _add_matches(sources, text, output, scan)
        else:
            _add(sources, Path(text), PurePath(), output, scan, recursive)
    return sources


def _add(sources: Sources, path: Path, below: PurePath, output: Path, scan: ScanFolder, recursive: bool) -> None:
    if reason := _why_unusable(path):
        raise PlanError(f"{reason}: {path}")
    if path.is_dir():
        _check_folder(path, output)
        sources.add_folder(path, scan(path, recursive), below)
    else:
        sources.images.append(Source(path, below / path.name))


def _add_listed(sources: Sources, line: str, output: Path, scan: ScanFolder, recursive: bool) -> None:
    path = Path(line)
    if reason := _why_unusable(path):
        sources.unreadable.append((path, reason))
        return
    inside = not path.is_absolute() and ".." not in path.parts
    place = PurePath(path) if inside else PurePath(path.name)
    _add(sources, path, place if path.is_dir() else place.parent, output, scan, recursive)


def _add_matches(sources: Sources, pattern: str, output: Path, scan: ScanFolder) -> None:
    parts = PurePath(pattern).parts
    num_fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    folder, wanted = Path(*parts[:num_fixed]), parts[num_fixed:]
    matching: list[Path] = []
    if folder.is_dir():
        _check_folder(folder, output)
        scanned = scan(folder, len(wanted) > 1 or "**" in wanted)
        matching = [path for path in scanned.images if _matches(path.relative_to(folder).parts, wanted)]
        sources.unreadable += scanned.unreadable
    if not matching:
        raise PlanError(f"no image matches {pattern}")
    sources.add_folder(folder, Scan(matching), PurePath())


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """`**` stands for any number of folders, also none; the other wildcards for letters of one name."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[number:], pattern[1:] or ("*",)) for number in range(len(parts)))
    return bool(parts) and fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _why_unusable(path: Path) -> str:
    if not os.path.exists(path):  # noqa: PTH110  Path.exists raises OSError for a name that is too long
        return "no such file or folder"
    return "" if path.is_dir() or path.is_file() else "neither a file nor a folder"


def _check_folder(folder: Path, output: Path) -> None:
    if os.path.realpath(folder) == os.path.realpath(output):
        raise PlanError(f"the output folder is the input folder {folder}: choose another -o")


def _lines(path: Path) -> Iterable[str]:
    try:
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise PlanError(f"cannot read the list {path}: {error.strerror or error}") from error
    lines = text.split(b"\0") if b"\0" in text else text.splitlines()
    return [os.fsdecode(line) for line in lines if line.strip()]
