"""Read and write image files with all that they carry: orientation, EXIF, colour profile, transparency, bit depth."""

import io
import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from restore_diff.data import png
from restore_diff.data.decoding import MAX_PIXELS, ImageError, decode
from restore_diff.files import printable, replace_atomically

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
"""Names that promise an image which can be read."""

WRITE_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
SIGNATURES = (png.SIGNATURE, b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF87a", b"GIF89a")
LUMA = (0.299, 0.587, 0.114)  # BT.601; equal channels give that channel


@dataclass(frozen=True, eq=False)
class RasterImage:
    """The pixels of a file, upright, and what has to be written back with them."""

    pixels: Tensor
    """float32 (3,H,W) RGB in [0, 1]; the three channels of a grey picture are equal."""
    grey: bool = False
    bit_depth: int = 8
    """8 or 16 bits per sample."""
    alpha: Tensor | None = None
    """float32 (1,H,W) in [0, 1]; the pixels are not multiplied by it."""
    exif: bytes = b""
    """With orientation 1, because the pixels are upright."""
    icc_profile: bytes = b""


def is_image(path: Path) -> bool:
    """Whether the content of a regular file, not its name, starts like an accepted image format."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(16)
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_bmp = head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"
    return is_webp or is_bmp or head.startswith(SIGNATURES)


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> RasterImage:
    """Read a picture, turned upright; of an animation, the first frame. ImageError for what would lose something."""
    samples, bit_depth, icc_profile, exif = decode(path, max_pixels)
    levels = samples.to(torch.float32) / (2**bit_depth - 1)
    grey = len(levels) < 3
    return RasterImage(
        pixels=levels[:1].repeat(3, 1, 1) if grey else levels[:3].contiguous(),
        grey=grey,
        bit_depth=bit_depth,
        alpha=levels[-1:].contiguous() if len(levels) in (2, 4) else None,
        exif=exif,
        icc_profile=icc_profile,
    )


def read_rgb_uint8(path: Path) -> Tensor:
    """Read a picture for training and scoring: uint8 (3,H,W) RGB, upright, grey replicated.

    ImageError for what would be silently wrong: 16 bits per sample, and transparency other than fully opaque.
    """
    samples, bit_depth, _, _ = decode(path)
    if bit_depth == 16:
        raise ImageError(
            f"{printable(path)}: 16 bits per sample; training and scoring read 8-bit images, convert it first"
        )
    if len(samples) in (2, 4) and not bool((samples[-1] == 255).all()):
        raise ImageError(f"{printable(path)}: partly transparent; put it on a background first")
    return samples[:1].repeat(3, 1, 1) if len(samples) < 3 else samples[:3].contiguous()


def write_image(path: Path, pixels: Tensor, like: RasterImage | None = None, quality: int = 95) -> None:
    """Write `pixels`, float RGB (3,H,W), clamped to [0, 1], in the format of the suffix; whole or not at all.

    What `like` carries goes with them: grey, transparency, bit depth, EXIF and colour profile, as far as the format
    holds them: 16 bits in PNG, and in TIFF without colour; no metadata in BMP. Rounded half up, as the metrics do.
    `quality` 1..100 is that of JPEG and WebP. ImageError for a suffix that is not written, transparency in JPEG, and
    values that are not finite; OSError as the disk gives it.
    """
    like = like or RasterImage(pixels)
    kind = WRITE_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageError(
            f"{printable(path)}: {path.suffix or 'no suffix'} is not written; use {', '.join(WRITE_FORMATS)}"
        )
    if kind == "JPEG" and like.alpha is not None:
        raise ImageError(f"{printable(path)}: JPEG holds no transparency; write .png, .webp or .tif")
    if pixels.shape != like.pixels.shape:
        raise ValueError(
            f"pixels of shape {tuple(pixels.shape)} cannot be written like an image of {tuple(like.pixels.shape)}"
        )
    if not bool(torch.isfinite(pixels).all()):
        raise ImageError(f"{printable(path)}: not written, the image holds values that are not finite")
    grey = like.grey and (kind in ("PNG", "JPEG", "TIFF") or (kind == "BMP" and like.alpha is None))
    is_deep = like.bit_depth == 16 and (kind == "PNG" or (kind == "TIFF" and grey and like.alpha is None))
    samples = _quantize(pixels, like.alpha, grey, 65535 if is_deep else 255)
    icc_profile = like.icc_profile if grey == like.grey else b""  # a profile for grey says nothing about RGB
    try:
        content = _encode(samples, kind, is_deep, quality, like.exif, icc_profile)
    except Exception as error:  # encoders raise anything, for instance on a size that the format cannot hold
        raise ImageError(f"{printable(path)}: cannot be written as {kind} ({error})") from error
    replace_atomically(path, content)


def _quantize(pixels: Tensor, alpha: Tensor | None, grey: bool, levels: int) -> Tensor:
    """Integer samples (C,H,W) in 0..levels, int32."""
    colour = pixels.detach().cpu().to(torch.float64)
    if grey:
        colour = torch.einsum("chw,c->hw", colour, torch.tensor(LUMA, dtype=torch.float64))[None]
    planes = colour if alpha is None else torch.cat([colour, alpha.cpu().to(torch.float64)])
    return (planes.clamp(0, 1) * levels + 0.5).floor().to(torch.int32)


def _encode(samples: Tensor, kind: str, is_deep: bool, quality: int, exif: bytes, icc_profile: bytes) -> bytes:
    if is_deep and kind == "PNG":
        return png.encode(samples, exif, icc_profile)
    array = samples.permute(1, 2, 0).numpy().astype("uint16" if is_deep else "uint8")
    image = Image.fromarray(array[..., 0] if len(samples) == 1 else array)
    options: dict[str, object] = {} if kind == "BMP" else {"exif": exif, "icc_profile": icc_profile or None}
    if kind == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
    if kind == "WEBP":
        options |= {"quality": quality, "exact": True}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
