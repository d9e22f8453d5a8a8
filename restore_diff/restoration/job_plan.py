"""Which file is restored to where. Every mistake that can be seen without opening a picture is found here, at once."""

import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from restore_diff.restoration.scan import IMAGE_ENDINGS, Scan, scan_folder

WRITTEN_ENDINGS = IMAGE_ENDINGS - {".jpe", ".jfif", ".gif"}
"""The endings that an output keeps; any other input becomes a PNG."""

COMPARISONS = "comparisons"
"""The folder below the output folder that mirrors it with pictures degraded | restored."""


class PlanError(ValueError):
    """Input, output and names do not fit together; each of `args` is a line for the user."""


class Job(NamedTuple):
    """One image: where it lies, where the restored one goes, and where the picture of both goes, if one is wanted."""

    source: Path
    output: Path
    comparison: Path | None

    @property
    def written(self) -> list[Path]:
        return [self.output] if self.comparison is None else [self.output, self.comparison]


class Plan(NamedTuple):
    """`jobs` are to be restored, in this order; `done` have their output already. `root` is the output folder."""

    root: Path
    jobs: list[Job]
    done: list[Job]
    scan: Scan


@dataclass(frozen=True)
class Naming:
    """How an output is named after its input: `extension` is an ending without dot, or "auto" for the input's own."""

    extension: str = "auto"
    suffix: str = ""

    def __post_init__(self) -> None:
        if any(letter in self.suffix for letter in "/\\\0"):
            raise PlanError(f"--suffix is part of a file name and cannot hold / or \\, got {self.suffix!r}")

    def name(self, source: str) -> str:
        """Stem, suffix and ending of the output for a file name. Without the ending of an image, a name is all stem."""
        ending = PurePath(source).suffix
        if ending.lower() not in IMAGE_ENDINGS:
            ending = ""
        stem = source.removesuffix(ending)
        if self.extension != "auto":
            return f"{stem}{self.suffix}.{self.extension}"
        return stem + self.suffix + (ending if ending.lower() in WRITTEN_ENDINGS else ".png")


def plan_folder(
    source: Path,
    output: Path,
    naming: Naming,
    is_image: Callable[[Path], bool],
    *,
    recursive: bool = True,
    overwrite: bool = False,
    compare: bool = False,
) -> Plan:
    """Plan the restoration of the file or folder `source` into `output`; a folder is mirrored there.

    For a single file, an `output` with the ending of an image names the file itself.

    Raises PlanError when the places do not exist or fit, and lists the outputs that would have one name where a file
    system does not tell cases apart, that would replace an input, or that a link would put outside of `output`.
    """
    _check_places(source, output)
    if source.is_dir():
        root, scan = output, scan_folder(source, output, is_image, recursive)
        names = [path.relative_to(source).with_name(naming.name(path.name)) for path in scan.images]
    elif output.suffix.lower() in WRITTEN_ENDINGS and not output.is_dir():
        if naming != Naming():
            raise PlanError(f"-o {output} names the file: leave out --ext and --suffix, or let -o name a folder")
        root, scan, names = output.parent, Scan([source]), [PurePath(output.name)]
    else:
        root, scan, names = output, Scan([source]), [PurePath(naming.name(source.name))]
    jobs = [_job(path, root, name, compare) for path, name in zip(scan.images, names, strict=True)]
    _check_collisions(jobs, root)
    _check_containment(jobs, root)
    _check_that_inputs_survive(jobs)
    exists = {job: _identity(job.output) is not None and not overwrite for job in jobs}
    return Plan(root, [job for job in jobs if not exists[job]], [job for job in jobs if exists[job]], scan)


def _job(source: Path, root: Path, name: PurePath, compare: bool) -> Job:
    picture = name if name.suffix.lower() == ".png" else name.with_name(name.name + ".png")
    return Job(source, root / name, root / COMPARISONS / picture if compare else None)


def _check_places(source: Path, output: Path) -> None:
    if not source.exists():
        raise PlanError(f"no such file or folder: {source}")
    if not (source.is_file() or source.is_dir()):
        raise PlanError(f"neither a file nor a folder: {source}")
    if source.is_dir() and os.path.realpath(source) == os.path.realpath(output):
        raise PlanError(f"the output folder is the input folder {source}: choose another -o")
    if output.is_file() and (source.is_dir() or output.suffix.lower() not in WRITTEN_ENDINGS):
        raise PlanError(f"-o must name a folder, and {output} is a file")
    places = output.parents if output.is_file() else (output, *output.parents)
    folder = next(place for place in places if place.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise PlanError(f"cannot write to {output}: {folder} is {'read-only' if folder.is_dir() else 'a file'}")


def _check_collisions(jobs: list[Job], root: Path) -> None:
    """Outputs whose names differ by case or by the composition of accents alone are one file on macOS and Windows."""
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
    _refuse(lines, f"folders are links that lead out of {root}")


def _check_that_inputs_survive(jobs: list[Job]) -> None:
    """Compared by identity on the disk: neither links nor a file system that ignores cases can hide an input."""
    inputs = {_identity(job.source) for job in jobs} - {None}
    lines = [str(path) for job in jobs for path in job.written if _identity(path) in inputs]
    _refuse(lines, "outputs would replace an input (choose another -o, or a --suffix)")


def _identity(path: Path) -> tuple[int, int] | None:
    """What file `path` is, None where none is or can be, as with a name that is too long (writing it fails, then)."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _refuse(lines: list[str], what: str) -> None:
    if lines:
        more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
        raise PlanError(f"{len(lines)} {what}:", *(f"  {line}" for line in lines[:10] + more))
