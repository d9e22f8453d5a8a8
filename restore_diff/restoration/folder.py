"""Which file is restored to where, and by whom.

Every mistake that can be seen without opening a picture is found here, at once."""

import errno
import os
import stat
import unicodedata
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import NamedTuple

import torch
from torch import Tensor

from restore_diff.data.images import RasterImage, read_image, write_image
from restore_diff.files import printable
from restore_diff.restoration.sources import IMAGE_ENDINGS, PlanError, Sources, find_sources
from restore_diff.tensors import Images

WRITTEN_ENDINGS = IMAGE_ENDINGS - {".jpe", ".jfif", ".gif"}
"""The endings that an output keeps; any other input becomes a PNG."""

COMPARISONS = "comparisons"
"""The folder below the output folder that mirrors it with pictures degraded | restored."""


UNCERTAINTY = "uncertainty"
"""Likewise, with pictures of how far several samples lie apart."""


class Job(NamedTuple):
    """One image: where it lies, where the restored one goes, and where two pictures about it go, if they are wanted."""

    source: Path
    output: Path
    comparison: Path | None = None
    uncertainty: Path | None = None

    @property
    def written(self) -> list[Path]:
        return [path for path in (self.output, self.comparison, self.uncertainty) if path is not None]


class Plan(NamedTuple):
    """`jobs` are to be restored, in this order; `done` have their output already. `root` is the output folder."""

    root: Path
    jobs: list[Job]
    done: list[Job]
    sources: Sources

    @property
    def folders(self) -> set[Path]:
        """Those that outputs go to, whether they exist or not."""
        return {path.parent for job in self.jobs + self.done for path in job.written}


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of the images, from `index` 0 on. Who shares a folder needs no other agreement."""

    index: int = 0
    count: int = 1

    def holds(self, name: PurePath) -> bool:
        """By the name below the input folder, alike on all machines: neither the order nor the other files matter."""
        text = unicodedata.normalize("NFC", name.as_posix())
        digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index


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


def plan_jobs(
    inputs: Sequence[str],
    output: Path,
    naming: Naming,
    is_image: Callable[[Path], bool],
    *,
    recursive: bool = True,
    overwrite: bool = False,
    compare: bool = False,
    uncertainty: bool = False,
    shard: Shard = Shard(),
) -> Plan:
    """Plan the restoration of the images that `inputs` name (see `find_sources`) into the folder `output`.

    For a single file, an `output` with the ending of an image names the file itself. What `shard` does not hold is
    left out, after the checks, which are those of the whole.

    Raises PlanError when the places do not exist or fit, and lists the outputs that would have one name where a file
    system does not tell cases apart, that would replace an input, or that a link would put outside of `output`.
    """
    sources = find_sources(inputs, output, is_image, recursive)
    _check_output(output)
    is_single = len(inputs) == 1 and Path(inputs[0]).is_file()
    if is_single and output.suffix.lower() in WRITTEN_ENDINGS and not output.is_dir():
        if naming != Naming():
            raise PlanError(f"-o {output} names the file: leave out --ext and --suffix, or let -o name a folder")
        root, names = output.parent, [PurePath(output.name)]
    else:
        if output.is_file():
            raise PlanError(f"-o must name a folder, and {output} is a file")
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


# Restoring many images: the next is read and the last is written while one is restored, in order, in flat memory.

Restore = Callable[[Images, str], Images]
"""(degraded image (1, 3, H, W) in [0, 1], its name) -> the restored image, of that shape and range.

For jobs with a picture of the uncertainty a second image follows it, (2, 3, H, W): the standard deviation of samples.
"""

WHITE_UNCERTAINTY = 0.1
"""The standard deviation that is drawn white; 0 is black."""

FAULTS = (OSError, ValueError, RuntimeError, MemoryError, FloatingPointError)
"""What bad files, disks and too large images raise. Anything else is a mistake of ours and ends the run."""


class DiskFull(OSError):
    """There is no space for an output: every further image would fail after its restoration."""


@dataclass(frozen=True)
class Writing:
    """How outputs are written."""

    quality: int = 95
    """Of JPEG and WebP, 1 to 100."""
    keep_alpha: bool = True
    keep_metadata: bool = True
    """EXIF: camera, place, time. The colour profile always stays, because without it the pixels mean other colours."""


class Outcome(NamedTuple):
    """What became of a job: `reason` says why it failed and is empty when the output is written, whole.

    `note` says what of the input is not in the output.
    """

    job: Job
    reason: str = ""
    note: str = ""
    disk_full: bool = False


class Restored(NamedTuple):
    image: RasterImage
    pixels: Tensor  # (3, H, W) in [0, 1], as the next
    spread: Tensor | None


def restore_folder(
    jobs: Sequence[Job], restore: Restore, max_pixels: int, writing: Writing = Writing()
) -> Generator[Outcome]:
    """Restore each image and yield its outcome, in the order of `jobs`; a bad image does not stop the others.

    The name that `restore` is given, and with it the noise, is that of the file without its folder: an image gives the
    same result alone, in its folder, and in a tree of folders.

    Raises DiskFull after the outcome of the first image that finds no space. After a KeyboardInterrupt the image that
    is being written is finished and yielded before the interrupt goes on.
    """
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        pending: deque[Future[Outcome]] = deque()
        try:
            for job, reading in _read_ahead(jobs, reader, max_pixels):
                restored = _restore(job, reading, restore)
                yield from _finished(pending)
                pending.append(writer.submit(_write, job, restored, writing))
        except KeyboardInterrupt:
            yield from _finished(pending)
            raise
        yield from _finished(pending)


def _read_ahead(
    jobs: Sequence[Job], reader: ThreadPoolExecutor, max_pixels: int
) -> Iterator[tuple[Job, Future[RasterImage]]]:
    """Each job with its image, which is read while the job before is at work."""
    readings: deque[tuple[Job, Future[RasterImage]]] = deque()
    for job in jobs:
        readings.append((job, reader.submit(_read, job, max_pixels)))
        if len(readings) > 1:
            yield readings.popleft()
    yield from readings


def _read(job: Job, max_pixels: int) -> RasterImage:
    image = read_image(job.source, max_pixels=max_pixels)
    for path in job.written:  # here, so that a folder that cannot be made costs no restoration
        path.parent.mkdir(parents=True, exist_ok=True)
    return image


def _restore(job: Job, reading: Future[RasterImage], restore: Restore) -> Restored | str:
    """The restored image, or why there is none."""
    try:
        image = reading.result()
        pixels = restore(image.pixels[None], job.source.name).cpu()
        return Restored(image, pixels[0], pixels[1] if job.uncertainty else None)
    except FAULTS as error:
        return _reason(job, error)


def _write(job: Job, restored: Restored | str, writing: Writing) -> Outcome:
    if isinstance(restored, str):
        return Outcome(job, restored)
    like = restored.image
    if not writing.keep_alpha:
        like = replace(like, alpha=None)
    if not writing.keep_metadata:
        like = replace(like, exif=b"")
    try:
        if job.comparison is not None:  # first: where there is an output, there is its comparison
            write_image(job.comparison, torch.cat([restored.image.pixels, restored.pixels], dim=2), like=None)
        if job.uncertainty is not None and restored.spread is not None:
            grey = (restored.spread.mean(dim=0, keepdim=True) / WHITE_UNCERTAINTY).clamp(0, 1)
            write_image(job.uncertainty, grey.expand_as(restored.spread), like=None)
        write_image(job.output, restored.pixels, like=like, quality=writing.quality)
    except FAULTS as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return Outcome(job, f"cannot write {job.output}: {_reason(job, error)}", disk_full=full)
    return Outcome(job, note=f"the first of {like.num_frames} frames" if like.num_frames > 1 else "")


def _finished(pending: deque[Future[Outcome]]) -> Iterator[Outcome]:
    while pending:
        outcome = pending[0].result()
        pending.popleft()
        yield outcome
        if outcome.disk_full:
            raise DiskFull(errno.ENOSPC, outcome.reason)


def _reason(job: Job, error: BaseException) -> str:
    """One line. Text, not the exception, whose traceback would keep the images in memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return "out of memory (a smaller --tile needs less)"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.removeprefix(f"{printable(job.source)}: ").splitlines() or [type(error).__name__])[0]
