"""What the user named as input: images, folders, patterns that no shell expanded, and lists of all these."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePath
from typing import NamedTuple

from restore_diff.restoration.scan import Scan, scan_folder

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
