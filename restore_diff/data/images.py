"""Read and write image files: bit depth, colour, metadata; check them, and keep them decoded in memory."""

import io
import os
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor
from tqdm import tqdm

from restore_diff.data.archive import open_file
from restore_diff.data.decoding import MAX_PIXELS, decode, encode_png, read_size
from restore_diff.data.names import PNG_SIGNATURE, ImageError
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
}
PNG_COMPRESSION = 4
"""Of 0 to 9. The default 6 takes twice the time, a quarter of a fast restoration, for 2 to 4 % smaller files."""
EXIF_DIRECTORIES = (34665, 34853)
"""TIFF tags of the EXIF and GPS directories."""
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
    exif: bytes = b""
    """With orientation 1, because the pixels are upright."""
    icc_profile: bytes = b""
    num_frames: int = 1
    """Frames or pages of the file; the pixels are those of the first."""


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> RasterImage:
    """Read a picture, turned upright; of an animation, the first frame. ImageError if reading would lose something."""
    samples, bit_depth, icc_profile, exif, num_frames = decode(path, max_pixels)
    levels = samples.to(torch.float32).div_(2**bit_depth - 1)
    grey = len(levels) < 3
    return RasterImage(
        pixels=levels[:1].repeat(3, 1, 1) if grey else levels[:3].contiguous(),
        grey=grey,
        bit_depth=bit_depth,
        alpha=levels[-1:].contiguous() if len(levels) in (2, 4) else None,
        exif=exif,
        icc_profile=icc_profile,
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


def write_image(path: Path, pixels: Tensor, like: RasterImage | None = None, quality: int = 95) -> None:
    """Write `pixels`, float RGB (3,H,W), clamped to [0, 1], in the format of the suffix, completely or not at all.

    Grey, transparency, bit depth, EXIF and colour profile come from `like` as far as the format holds them: 16 bits in
    PNG and TIFF, no metadata in BMP, in JPEG no alpha, which must be opaque. Levels are rounded half up, as in the
    metrics. `quality` 1..100 is that of JPEG and WebP. ImageError for an unknown suffix, transparency in JPEG, and
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
    is_deep = like.bit_depth == 16 and kind in ("PNG", "TIFF")
    holds_grey = {"PNG": True, "JPEG": True, "TIFF": alpha is None or not is_deep, "BMP": alpha is None, "WEBP": False}
    grey = like.grey and holds_grey[kind]
    samples = _quantize(pixels, alpha, grey, 65535 if is_deep else 255)
    icc_profile = like.icc_profile if grey == like.grey else b""  # a grey profile does not fit RGB
    try:
        content = _encode(samples, kind, is_deep, quality, like.exif, icc_profile)
    except Exception as error:  # encoders raise anything, for instance on a size that the format cannot hold
        raise ImageError(f"{printable(path)}: cannot be written as {kind} ({error})") from error
    replace_atomically(path, content)


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


def _encode(samples: Tensor, kind: str, is_deep: bool, quality: int, exif: bytes, icc_profile: bytes) -> bytes:
    if is_deep:
        return (encode_png if kind == "PNG" else encode_tiff)(samples, exif, icc_profile)
    array = samples.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[..., 0] if len(samples) == 1 else array)
    options: dict[str, object] = {} if kind == "BMP" else {"exif": exif, "icc_profile": icc_profile or None}
    if kind == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
    if kind == "WEBP":
        options |= {"quality": quality, "exact": True}
    if kind == "PNG":
        options |= {"compress_level": PNG_COMPRESSION}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_tiff(samples: Tensor, exif: bytes, icc_profile: bytes) -> bytes:
    """Encode integers 0..65535 (C,H,W) as 16-bit TIFF: one strip, deflated. Tags: Adobe TIFF 6.0.

    C: 1 grey, 3 RGB, 4 RGB + alpha. Pillow does not write 16 bits in colour.
    """
    channels, height, width = samples.shape
    pixels = samples.permute(1, 2, 0).numpy().astype("<u2")
    differences = pixels.copy()  # predictor 2: each sample minus that of the pixel to the left
    differences[:, 1:] -= pixels[:, :-1]
    strip = zlib.compress(differences.tobytes())
    directory = ImageFileDirectory_v2()
    block = Image.Exif()
    block.load(exif)
    for tag in block:
        directory[tag] = block.get_ifd(tag) if tag in EXIF_DIRECTORIES else block[tag]
    tags: dict[int, object] = {
        256: width,
        257: height,
        258: (16,) * channels,  # bits per sample
        259: 8,  # deflate
        262: 1 if channels == 1 else 2,  # grey, RGB
        273: (0,),  # start of the strip, filled in by `save`
        277: channels,
        278: height,  # rows per strip
        279: (len(strip),),
        284: 1,  # samples of a pixel are adjacent
        317: 2,  # predictor
    }
    if channels == 4:
        tags[338] = (2,)  # the fourth is alpha, not premultiplied
    if icc_profile:
        tags[34675] = icc_profile
    for tag, value in tags.items():
        directory[tag] = value
    file = io.BytesIO()
    directory.save(file)
    return file.getvalue() + strip


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
