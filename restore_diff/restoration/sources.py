"""Input files and the plan of outputs. All mistakes that are visible without opening an image are reported at once."""

import errno
import glob
import os
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import NamedTuple

from restore_diff.data.formats import IMAGE_ENDINGS, RAW_ENDINGS, why_ignored
from restore_diff.data.names import is_image
from restore_diff.errors import UserError

WRITTEN_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif"})
"""Endings kept by outputs; camera RAW becomes a TIFF, any other input a PNG."""

COMPARISONS = "comparisons"
"""Folder below the output folder that mirrors it with pictures degraded | restored."""

UNCERTAINTY = "uncertainty"
"""Folder below the output folder that mirrors it with per-pixel uncertainty maps."""


class PlanError(UserError):
    """Input, output and names do not fit together; each of `args` is a line of the message."""


class Source(NamedTuple):
    path: Path
    name: PurePath
    """Place below the output folder: relative, without "..", with the ending of the source."""


@dataclass
class Sources:
    """`images` in order; numbers of `ignored` files by kind; `unreadable` files and folders with the reason.

    `unsupported` are photographs of a format that is not read here, with what to do.
    """

    images: list[Source] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    unsupported: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, found: "Sources", below: PurePath) -> None:
        """Add the images of a folder, mirrored at `below`."""
        self.images += [Source(path, below / name) for path, name in found.images]
        self.ignored.update(found.ignored)
        self.unreadable += found.unreadable
        self.unsupported += found.unsupported


def scan_folder(root: Path, excluded: Path, recursive: bool) -> Sources:
    """Find the images below `root`, but not below `excluded`, by folder and name, named relative to `root`.

    Hidden files and folders, links to folders, broken links, special files and other files are ignored and counted.
    The content decides about files without the ending of an image.
    """
    found = Sources()

    def note_unreadable(error: OSError) -> None:
        found.unreadable.append((Path(error.filename or root), error.strerror or str(error)))

    excluded = Path(os.path.realpath(excluded))
    for name, folders, files in os.walk(root, onerror=note_unreadable):
        folder = Path(name)
        entered = [child for child in sorted(folders) if recursive and not _same(folder / child, excluded)]
        kinds = {child: _kind_of_ignored_folder(folder / child) for child in entered}
        folders[:] = [child for child in entered if not kinds[child]]
        found.ignored.update(kind for kind in kinds.values() if kind)
        for path in (folder / child for child in sorted(files)):
            try:
                kind = _kind_of_ignored_file(path)
                reason = "" if kind in ("hidden", "broken link", "special file") else why_ignored(path)
            except OSError as error:
                note_unreadable(error)
                continue
            if reason:
                found.unsupported.append((path, reason))
            elif kind:
                found.ignored[kind] += 1
            else:
                found.images.append(Source(path, path.relative_to(root)))
    return found


def _same(folder: Path, excluded: Path) -> bool:
    return excluded.exists() and folder.samefile(excluded)


def _kind_of_ignored_folder(folder: Path) -> str:
    """Why a folder is not entered, or "". Links are never followed, so that the walk ends."""
    if folder.name.startswith("."):
        return "hidden folder"
    return "linked folder" if folder.is_symlink() else ""


def _kind_of_ignored_file(path: Path) -> str:
    """Why a file is not restored, or "". Raises OSError if its content is needed and cannot be read."""
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


def find_sources(inputs: Sequence[str], output: Path, recursive: bool = True) -> Sources:
    """Find the images of `inputs`; each is one of

    - a file, placed in the output folder by its name;
    - a folder, mirrored there, with subfolders if `recursive`, without `output` if that lies inside;
    - a pattern such as "photos/**/*.jpg", unless a file has that name: matches are mirrored from photos/ on;
    - "@FILE", a list of files and folders, one per line or separated by NUL: a relative path is mirrored as it is, an
      absolute one, or one with "..", is placed in the output folder by its last name.

    A listed file that does not exist is unreadable. Raises PlanError for any other input that does not exist, and for
    the output folder as input.
    """
    sources = Sources()
    for text in inputs:
        if text.startswith("@"):
            for line in _lines(Path(text[1:])):
                _add_listed(sources, line, output, recursive)
        elif glob.has_magic(text) and not os.path.lexists(text):
            _add_matches(sources, text, output)
        else:
            path = Path(text)
            if reason := _why_unusable(path):
                raise PlanError(f"{reason}: {path}")
            sources.add(_scan(path, output, recursive), PurePath())
    return sources


def _scan(path: Path, output: Path, recursive: bool) -> Sources:
    """The images of a folder, or the file itself."""
    if not path.is_dir():
        return Sources([Source(path, PurePath(path.name))])
    if os.path.realpath(path) == os.path.realpath(output):
        raise PlanError(f"the output folder is the input folder {path}: choose another -o")
    return scan_folder(path, output, recursive)


def _add_listed(sources: Sources, line: str, output: Path, recursive: bool) -> None:
    path = Path(line)
    if reason := _why_unusable(path):
        sources.unreadable.append((path, reason))
        return
    inside = not path.is_absolute() and ".." not in path.parts
    place = PurePath(path) if inside else PurePath(path.name)
    sources.add(_scan(path, output, recursive), place if path.is_dir() else place.parent)


def _add_matches(sources: Sources, pattern: str, output: Path) -> None:
    parts = PurePath(pattern).parts
    num_fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    folder, wanted = Path(*parts[:num_fixed]), parts[num_fixed:]
    found = Sources()
    if folder.is_dir():
        scanned = _scan(folder, output, recursive=len(wanted) > 1 or "**" in wanted)
        matching = [source for source in scanned.images if _matches(source.name.parts, wanted)]
        unsupported = [
            (path, reason) for path, reason in scanned.unsupported if _matches(path.relative_to(folder).parts, wanted)
        ]
        found = Sources(matching, unreadable=scanned.unreadable, unsupported=unsupported)
    if not found.images and not found.unsupported:
        raise PlanError(f"no image matches {pattern}")
    sources.add(found, PurePath())


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """`**` matches any number of folders, also none; other wildcards match within one name."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[number:], pattern[1:] or ("*",)) for number in range(len(parts)))
    return bool(parts) and fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _why_unusable(path: Path) -> str:
    if not os.path.exists(path):  # noqa: PTH110  Path.exists raises OSError for a name that is too long
        return "no such file or folder"
    return "" if path.is_dir() or path.is_file() else "neither a file nor a folder"


def _lines(path: Path) -> Iterable[str]:
    try:
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise PlanError(f"cannot read the list {path}: {error.strerror or error}") from error
    lines = text.split(b"\0") if b"\0" in text else text.splitlines()
    return [os.fsdecode(line) for line in lines if line.strip()]


class Job(NamedTuple):
    """One image: its file, its output, and the files of two further pictures if they are wanted."""

    source: Path
    output: Path
    comparison: Path | None = None
    uncertainty: Path | None = None

    @property
    def written(self) -> list[Path]:
        return [path for path in (self.output, self.comparison, self.uncertainty) if path is not None]


class Plan(NamedTuple):
    """`jobs` to restore, in order; `done` have an output already. `root` is the output folder."""

    root: Path
    jobs: list[Job]
    done: list[Job]
    sources: Sources

    @property
    def folders(self) -> set[Path]:
        """Folders of the outputs, whether they exist or not."""
        return {path.parent for job in self.jobs + self.done for path in job.written}


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of the images, counted from 0."""

    index: int = 0
    count: int = 1

    def holds(self, name: PurePath) -> bool:
        """Decide by the name below the input folder: the same on all machines, for any order and any other files."""
        text = unicodedata.normalize("NFC", name.as_posix())
        digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index


@dataclass(frozen=True)
class Naming:
    """Names of outputs: `extension` is an ending without dot, or "auto" for that of the input."""

    extension: str = "auto"
    suffix: str = ""

    def __post_init__(self) -> None:
        if any(letter in self.suffix for letter in "/\\\0"):
            raise PlanError(f"--suffix is part of a file name and cannot contain / or \\, got {self.suffix!r}")

    def name(self, source: str) -> str:
        """Stem, suffix and ending of the output for a file name. Endings other than those of images are kept."""
        ending = PurePath(source).suffix
        if ending.lower() not in IMAGE_ENDINGS:
            ending = ""
        stem = source.removesuffix(ending)
        if self.extension != "auto":
            return f"{stem}{self.suffix}.{self.extension}"
        other = ".tif" if ending.lower() in RAW_ENDINGS else ".png"
        return stem + self.suffix + (ending if ending.lower() in WRITTEN_ENDINGS else other)


def plan_jobs(
    inputs: Sequence[str],
    output: Path,
    naming: Naming = Naming(),
    *,
    recursive: bool = True,
    overwrite: bool = False,
    compare: bool = False,
    uncertainty: bool = False,
    shard: Shard = Shard(),
) -> Plan:
    """Plan the restoration of `inputs` (see `find_sources`) into the folder `output`.

    For a single file, an `output` with the ending of an image is the file itself. Images of other shards are left out
    after the checks, which cover all images.

    Raises PlanError for places that do not exist or fit, and lists outputs whose names collide where a file system
    ignores case, that would replace an input, or that a link would place outside of `output`.
    """
    sources = find_sources(inputs, output, recursive)
    _check_output(output)
    is_single = len(inputs) == 1 and Path(inputs[0]).is_file()
    if is_single and output.suffix.lower() in WRITTEN_ENDINGS and not output.is_dir():
        if naming != Naming():
            raise PlanError(f"-o {output} is a file: leave out --ext and --suffix, or give a folder to -o")
        root, names = output.parent, [PurePath(output.name)]
    else:
        if output.is_file():
            raise PlanError(f"-o must be a folder, but {output} is a file")
        root, names = output, [source.name.with_name(naming.name(source.name.name)) for source in sources.images]
    also = [folder for folder, wanted in ((COMPARISONS, compare), (UNCERTAINTY, uncertainty)) if wanted]
    planned = {_job(source.path, root, name, also): source for source, name in zip(sources.images, names, strict=True)}
    jobs = list(planned)
    _check_collisions(jobs, root)
    _check_containment(jobs, root)
    _check_that_inputs_survive(jobs)
    mine = [job for job, source in planned.items() if shard.holds(source.name)]
    exists = {job: _identity(job.output) is not None and not overwrite for job in mine}
    return Plan(root, [job for job in mine if not exists[job]], [job for job in mine if exists[job]], sources)


def _job(source: Path, root: Path, name: PurePath, also: Sequence[str]) -> Job:
    picture = name if name.suffix.lower() == ".png" else name.with_name(name.name + ".png")
    places = {folder: root / folder / picture for folder in also}
    return Job(source, root / name, places.get(COMPARISONS), places.get(UNCERTAINTY))


def _check_output(output: Path) -> None:
    places = output.parents if output.is_file() else (output, *output.parents)
    folder = next(place for place in places if place.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise PlanError(f"cannot write to {output}: {folder} is {'read-only' if folder.is_dir() else 'a file'}")


def _check_collisions(jobs: list[Job], root: Path) -> None:
    """Names that differ only in case or in the composition of accents are one file on macOS and Windows."""
    sources = defaultdict(list)
    for job in jobs:
        for path in job.written:
            sources[unicodedata.normalize("NFC", str(path)).casefold()].append((job.source, path))
    lines = [
        f"{', '.join(str(source) for source, _ in group)} -> {group[0][1].relative_to(root)}"
        for group in sources.values()
        if len(group) > 1
    ]
    _refuse(lines, "outputs would be written by more than one input (rename, or choose another --ext)")


def _check_containment(jobs: list[Job], root: Path) -> None:
    inside = Path(os.path.realpath(root))
    folders = {path.parent for job in jobs for path in job.written}
    lines = [
        f"{f} -> {real}" for f in sorted(folders) if not (real := Path(os.path.realpath(f))).is_relative_to(inside)
    ]
    _refuse(lines, f"folders are links to places outside of {root}")


def _check_that_inputs_survive(jobs: list[Job]) -> None:
    """Compares identities on the disk, so that links and file systems that ignore case cannot hide an input."""
    inputs = {_identity(job.source) for job in jobs} - {None}
    lines = [str(path) for job in jobs for path in job.written if _identity(path) in inputs]
    _refuse(lines, "outputs would replace an input (choose another -o, or a --suffix)")


def _identity(path: Path) -> tuple[int, int] | None:
    """Identity of the file at `path`; None if there is none, or its name is too long (then writing it will fail)."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _refuse(lines: list[str], what: str) -> None:
    if lines:
        more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
        raise PlanError(f"{len(lines)} {what}:", *(f"  {line}" for line in lines[:10] + more))
