"""Read and write image files: bit depth, colour, metadata; check them, and keep them decoded in memory."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from restore_diff.data.archive import open_file
from restore_diff.data.decoding import MAX_PIXELS, decode, read_size
from restore_diff.data.encoding import DEEP_FORMATS, encode
from restore_diff.data.formats import PNG_SIGNATURE
from restore_diff.data.metadata import Metadata, fit
from restore_diff.data.names import ImageError
from restore_diff.files import printable, replace_atomically

T = TypeVar("T")

PNG_END = b"IEND\xae\x42\x60\x82"
JPEG_END = b"\xff\xd9"
WRITE_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
}
NO_METADATA = Metadata()
ROWS_AT_ONCE = 256
LUMA = (0.299, 0.587, 0.114)  # BT.601; equal channels give that channel
MIB = 2**20
NUM_THREADS = min(8, os.cpu_count() or 1)


def seems_cut_off(path: Path) -> bool:
    """Return whether a PNG, JPEG or WebP file lacks the end of its format: truncated, or with data appended.

    Two reads, no decoding. False for other formats.
    """
    with open_file(path) as file:
        head = file.read(12)
        length = file.seek(0, 2)
        file.seek(max(0, length - len(PNG_END)))
        end = file.read()
    if head.startswith(PNG_SIGNATURE):
        return end != PNG_END
    if head.startswith(b"\xff\xd8\xff"):
        return not end.endswith(JPEG_END)
    return head.startswith(b"RIFF") and length < 8 + int.from_bytes(head[4:8], "little")


@dataclass(frozen=True, eq=False)
class RasterImage:
    """The upright pixels of a file, and what is written back with them."""

    pixels: Tensor
    """float32 (3,H,W) RGB in [0, 1]; the three channels of a grey picture are equal."""
    grey: bool = False
    bit_depth: int = 8
    """8 or 16 bits per sample."""
    alpha: Tensor | None = None
    """float32 (1,H,W) in [0, 1]; the pixels are not premultiplied."""
    metadata: Metadata = NO_METADATA
    num_frames: int = 1
    """Frames or pages of the file; the pixels are those of the first."""


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> RasterImage:
    """Read a picture, turned upright; of an animation, the first frame. ImageError if reading would lose something."""
    samples, bit_depth, metadata, num_frames = decode(path, max_pixels)
    levels = samples.to(torch.float32).div_(2**bit_depth - 1)
    grey = len(levels) < 3
    return RasterImage(
        pixels=levels[:1].repeat(3, 1, 1) if grey else levels[:3].contiguous(),
        grey=grey,
        bit_depth=bit_depth,
        alpha=levels[-1:].contiguous() if len(levels) in (2, 4) else None,
        metadata=metadata,
        num_frames=num_frames,
    )


def read_rgb_uint8(path: Path) -> Tensor:
    """Read a picture for training and scoring: uint8 (3,H,W) RGB, upright, grey replicated.

    ImageError for 16 bits per sample and for transparency other than fully opaque.
    """
    samples, bit_depth, *_ = decode(path)
    if bit_depth == 16:
        raise ImageError(
            f"{printable(path)}: 16 bits per sample; training and scoring read 8-bit images, convert it first"
        )
    if len(samples) in (2, 4) and not bool((samples[-1] == 255).all()):
        raise ImageError(f"{printable(path)}: partly transparent; put it on a background first")
    return samples[:1].repeat(3, 1, 1) if len(samples) < 3 else samples[:3].contiguous()


def write_image(path: Path, pixels: Tensor, like: RasterImage | None = None, quality: int = 95) -> list[str]:
    """Write `pixels`, float RGB (3,H,W), clamped to [0, 1], in the format of the suffix, completely or not at all.

    Grey, transparency, bit depth and metadata come from `like`. Return the names of what was in its file and is not in
    the new one, because it could not be read or the format does not hold it: more than 8 bits go into PNG, TIFF and
    HEIC only, and a JPEG file has no alpha, which must be opaque. Levels are rounded half up, as in the metrics.
    `quality` 1..100 is that of JPEG, WebP, AVIF and HEIC. ImageError for an unknown suffix, transparency in JPEG, and
    values that are not finite; OSError from the disk.
    """
    like = like or RasterImage(pixels)
    kind = WRITE_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageError(
            f"{printable(path)}: {path.suffix or 'no suffix'} is not written; use {', '.join(WRITE_FORMATS)}"
        )
    if pixels.shape != like.pixels.shape:
        raise ValueError(
            f"pixels of shape {tuple(pixels.shape)} cannot be written like an image of {tuple(like.pixels.shape)}"
        )
    if not bool(torch.isfinite(pixels).all()):
        raise ImageError(f"{printable(path)}: not written, the image holds values that are not finite")
    alpha = like.alpha
    if kind == "JPEG" and alpha is not None:
        if not bool((alpha == 1).all()):
            others = ".png, .webp or .tif, or leave it out (--alpha drop)"
            raise ImageError(f"{printable(path)}: JPEG holds no transparency; write {others}")
        alpha = None
    is_deep = like.bit_depth == 16 and kind in DEEP_FORMATS
    grey = like.grey and _holds_grey(kind, is_deep, alpha is not None)
    samples = _quantize(pixels, alpha, grey, 65535 if is_deep else 255)
    metadata, lost = like.metadata, list(like.metadata.lost)
    if grey != like.grey and metadata.icc_profile:
        metadata = replace(metadata, icc_profile=b"")  # a grey profile does not fit RGB
        lost.append("grey colour profile")
    fields, left_out = fit(metadata, kind)
    lost += left_out
    bits, written_bits = metadata.bits or like.bit_depth, (10 if kind == "HEIF" else 16) if is_deep else 8
    if written_bits < bits:
        lost.append(f"bit depth ({written_bits} of {bits})")
    try:
        content = encode(samples, kind, quality, fields, lost)
    except Exception as error:  # encoders raise anything, for instance on a size that the format cannot hold
        raise ImageError(f"{printable(path)}: cannot be written as {kind} ({error})") from error
    replace_atomically(path, content)
    return list(dict.fromkeys(lost))


def _holds_grey(kind: str, is_deep: bool, has_alpha: bool) -> bool:
    """Return whether grey samples are written as such; else as RGB."""
    if kind in ("TIFF", "BMP", "HEIF"):
        return not has_alpha or (kind == "TIFF" and not is_deep)
    return kind in ("PNG", "JPEG")


def _quantize(pixels: Tensor, alpha: Tensor | None, grey: bool, levels: int) -> Tensor:
    """Return integer samples (C,H,W) in 0..levels: uint8, or int32 for more than 255 levels.

    In double precision, so that every level is reached, a few rows at a time.
    """
    planes = (1 if grey else 3) + (alpha is not None)
    samples = torch.empty(planes, *pixels.shape[1:], dtype=torch.uint8 if levels == 255 else torch.int32)
    for top in range(0, pixels.shape[1], ROWS_AT_ONCE):
        rows = slice(top, top + ROWS_AT_ONCE)
        colour = pixels[:, rows].detach().cpu().to(torch.float64)
        if grey:
            colour = torch.einsum("chw,c->hw", colour, torch.tensor(LUMA, dtype=torch.float64))[None]
        values = colour if alpha is None else torch.cat([colour, alpha[:, rows].cpu().to(torch.float64)])
        samples[:, rows] = (values.clamp(0, 1) * levels + 0.5).floor().to(samples.dtype)
    return samples


class Scan(NamedTuple):
    """Result of a check of files without decoding all of them."""

    sizes: dict[Path, tuple[int, int]]
    """(height, width) of each intact file."""
    damaged: dict[Path, ImageError]


class DecodedImages:
    """uint8 (3,H,W) by path. The first images that fit into `cache_mib` are decoded at once, the others at each read.

    One tensor, filled before worker processes start: forked workers share its pages, spawned ones its shared memory.
    """

    def __init__(self, scan: Scan, cache_mib: int):
        self._sizes = scan.sizes
        self.damaged = dict(scan.damaged)
        """Errors of the scan and of decoding into the cache."""
        self._offsets: dict[Path, int] = {}
        end = 0
        for path, (height, width) in scan.sizes.items():
            if end + 3 * height * width <= cache_mib * MIB:
                self._offsets[path] = end
                end += 3 * height * width
        self._memory = torch.empty(end, dtype=torch.uint8)
        with ThreadPoolExecutor(NUM_THREADS) as pool:  # Pillow decodes outside the interpreter's lock
            for _ in _with_bar(pool.map(self._fill, self._offsets), len(self._offsets), "read files"):
                pass

    @property
    def num_cached(self) -> int:
        return len(self._offsets)

    def __getitem__(self, path: Path) -> Tensor:
        """Return a shared tensor, not to be written into. Raises ImageError for a file that cannot be read."""
        if path in self.damaged:
            raise self.damaged[path]
        return self._slot(path) if path in self._offsets else read_rgb_uint8(path)

    def _fill(self, path: Path) -> None:
        try:
            self._slot(path).copy_(read_rgb_uint8(path))
        except ImageError as error:
            self.damaged[path] = error

    def _slot(self, path: Path) -> Tensor:
        height, width = self._sizes[path]
        return self._memory[self._offsets[path] :][: 3 * height * width].view(3, height, width)


def scan_files(paths: Iterable[Path], is_suspect: Callable[[Path], bool] = seems_cut_off) -> Scan:
    """Read the header of each file; decode those that `is_suspect`."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        examined = pool.map(lambda path: _examine(path, is_suspect), distinct)
        found = dict(zip(distinct, _with_bar(examined, len(distinct), "check files"), strict=True))
    sizes = {path: size for path, size in found.items() if not isinstance(size, ImageError)}
    return Scan(sizes, {path: error for path, error in found.items() if isinstance(error, ImageError)})


def _with_bar(results: Iterable[T], total: int, label: str) -> Iterable[T]:
    """Show a progress bar in the first process of torchrun, for what takes longer than a second."""
    is_other = os.environ.get("RANK", "0") != "0"
    return tqdm(results, label, total, leave=False, unit="file", delay=1, disable=is_other or None)


def read_sizes(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Return (height, width) of each file; ImageError for damaged files."""
    scan = scan_files(paths)
    refuse_damaged(scan.damaged)
    return scan.sizes


def refuse_damaged(damaged: dict[Path, ImageError]) -> None:
    """Raise ImageError for the first of these files with the number of the others, if there are any."""
    if damaged:
        first = str(next(iter(damaged.values())))
        others = f"; {len(damaged) - 1} more files cannot be read" if len(damaged) > 1 else ""
        raise ImageError(first + others)


def _examine(path: Path, is_suspect: Callable[[Path], bool]) -> tuple[int, int] | ImageError:
    try:
        size = read_size(path)
        if is_suspect(path):
            read_rgb_uint8(path)
        return size
    except ImageError as error:
        return error
