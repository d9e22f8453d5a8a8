"""Restore many images in order and in flat memory: reading and writing overlap with restoring."""

import errno
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from restore_diff.data.images import RasterImage, read_image, write_image
from restore_diff.data.metadata import STRIPPED
from restore_diff.files import printable
from restore_diff.restoration.sources import Job
from restore_diff.tensors import Images

Restore = Callable[[Images, str], Images]
"""(degraded (1, 3, H, W) in [0, 1], file name) -> restored, same shape and range.

For jobs with an uncertainty map: (2, 3, H, W), the restored image and the standard deviation over samples.
"""

WHITE_UNCERTAINTY = 0.1
"""Standard deviation drawn in white; 0 is black."""

FAULTS = (OSError, ValueError, RuntimeError, MemoryError, FloatingPointError)
"""Errors of bad files, disks and too large images: they fail one image. Any other error is a bug and ends the run."""


class DiskFull(OSError):
    """No space for an output: every further image would fail as well."""


@dataclass(frozen=True)
class Writing:
    """Options for written files."""

    quality: int = 95
    """Quality of JPEG and WebP, 1 to 100."""
    keep_alpha: bool = True
    keep_grey: bool = True
    """Write grey images as grey; False: in colour, for the task that colorizes them."""
    keep_metadata: bool = True
    """EXIF, XMP, IPTC, comments. Colour profile and resolution are always kept."""


class Outcome(NamedTuple):
    """Result of a job: `reason` of a failure, or "" if the whole output is written; `note` on parts left out."""

    job: Job
    reason: str = ""
    note: str = ""
    disk_full: bool = False


class Restored(NamedTuple):
    """An image with its restored pixels and their standard deviation, each (3, H, W) in [0, 1]."""

    image: RasterImage
    pixels: Tensor
    spread: Tensor | None


def restore_folder(
    jobs: Sequence[Job], restore: Restore, max_pixels: int, writing: Writing = Writing()
) -> Generator[Outcome]:
    """Restore each image and yield its outcome in the order of `jobs`; a bad image does not stop the others.

    `restore` gets the file name without its folder, which addresses the noise, so that the result is the same for a
    single file, its folder, and a tree of folders.

    Raises DiskFull after the outcome of the first image without space. On KeyboardInterrupt the image being written is
    finished and yielded before the interrupt is raised.
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
    """Each job with its image, which is read during the job before."""
    readings: deque[tuple[Job, Future[RasterImage]]] = deque()
    for job in jobs:
        readings.append((job, reader.submit(_read, job, max_pixels)))
        if len(readings) > 1:
            yield readings.popleft()
    yield from readings


def _read(job: Job, max_pixels: int) -> RasterImage:
    image = read_image(job.source, max_pixels=max_pixels)
    for path in job.written:  # before restoring, so that no work is lost if it fails
        path.parent.mkdir(parents=True, exist_ok=True)
    return image


def _restore(job: Job, reading: Future[RasterImage], restore: Restore) -> Restored | str:
    """The restored image, or the reason of the failure."""
    try:
        image = reading.result()
        pixels = restore(image.pixels[None], job.source.name).cpu()
        return Restored(image, pixels[0], pixels[1] if job.uncertainty else None)
    except FAULTS as error:
        return _reason(job, error)


def _write(job: Job, restored: Restored | str, writing: Writing) -> Outcome:
    if isinstance(restored, str):
        return Outcome(job, restored)
    like = _enlarged(restored.image, restored.pixels)
    if like.grey and not writing.keep_grey:
        like = replace(like, grey=False, metadata=replace(like.metadata, icc_profile=b""))
    if not writing.keep_alpha:
        like = replace(like, alpha=None)
    if not writing.keep_metadata:
        like = replace(like, metadata=replace(like.metadata, **STRIPPED))
    try:
        if job.comparison is not None:  # before the output, so that a finished image has all its files
            write_image(job.comparison, torch.cat([like.pixels, restored.pixels], dim=2), like=None)
        if job.uncertainty is not None and restored.spread is not None:
            grey = (restored.spread.mean(dim=0, keepdim=True) / WHITE_UNCERTAINTY).clamp(0, 1)
            write_image(job.uncertainty, grey.expand_as(restored.spread), like=None)
        lost = write_image(job.output, restored.pixels, like=like, quality=writing.quality)
    except FAULTS as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return Outcome(job, f"cannot write {job.output}: {_reason(job, error)}", disk_full=full)
    notes = [f"the first of {like.num_frames} frames"] if like.num_frames > 1 else []
    notes += [f"not kept: {', '.join(lost)}"] if lost else []
    return Outcome(job, note="; ".join(notes))


def _enlarged(image: RasterImage, restored: Tensor) -> RasterImage:
    """The image with its pixels and alpha at the size of its restored pixels."""
    size = restored.shape[1:]
    if image.pixels.shape[1:] == size:
        return image
    alpha = None if image.alpha is None else F.interpolate(image.alpha[None], size=size, mode="bilinear")[0]
    return replace(image, pixels=F.interpolate(image.pixels[None], size=size)[0], alpha=alpha)


def _finished(pending: deque[Future[Outcome]]) -> Iterator[Outcome]:
    while pending:
        outcome = pending[0].result()
        pending.popleft()
        yield outcome
        if outcome.disk_full:
            raise DiskFull(errno.ENOSPC, outcome.reason)


def _reason(job: Job, error: BaseException) -> str:
    """One line of text: keeping the exception would keep the images in memory by its traceback."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return "out of memory (a smaller --tile needs less)"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.removeprefix(f"{printable(job.source)}: ").splitlines() or [type(error).__name__])[0]
