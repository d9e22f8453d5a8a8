"""Decode image files of any accepted kind to integer samples, upright, with the metadata that belongs to them."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError
from torch import Tensor

from restore_diff.data import deep, png
from restore_diff.data.members import in_tar, is_file, open_file
from restore_diff.files import printable

MAX_PIXELS = 200_000_000
"""A larger picture is refused unless the caller allows it: a file of a few kB can claim any size."""

_opening = threading.Lock()
"""Held while Pillow's own limit is lifted, which is a global of its module."""

READ_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 0x0112
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
# A TIFF file keeps EXIF among the tags that say how its pixels are stored; only these say something about the picture.
DESCRIPTIVE_TIFF_TAGS = (270, 271, 272, ORIENTATION, 282, 283, 296, 305, 306, 315, 33432, 34665, 34853)


class ImageError(ValueError):
    """An image file that cannot be read or written. One line: the path and what to do."""


class Decoded(NamedTuple):
    """What a file holds."""

    samples: Tensor
    """(C,H,W) upright, uint8 or, with 16 bits, int32. C: 1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha."""
    bit_depth: int
    """8 or 16 bits per sample."""
    icc_profile: bytes
    exif: bytes
    """With orientation 1, because the samples are upright."""
    num_frames: int
    """Of an animation, or pages of a TIFF file; `samples` are the first."""


def decode(path: Path, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode a picture; of an animation, the first frame. ImageError for what cannot be decoded without loss."""
    with opened(path, max_pixels) as image:
        samples, bit_depth, icc_profile = _samples(image, path)
        orientation, exif = _exif(image, type(image).getexif)
        num_frames = _num_frames(image)
    return Decoded(_upright(samples, orientation), bit_depth, icc_profile, exif, num_frames)


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright picture, from the header of the file alone."""
    with opened(path) as image:
        width, height = image.size
        is_early = image.format == "PNG" and not png.has_late_metadata(path)
        getexif = Image.Image.getexif if is_early else type(image).getexif  # that of a PNG decodes the pixels
        turned = image.format != "TIFF" and _exif(image, getexif)[0] >= 5  # Pillow turns TIFF itself
    return (width, height) if turned else (height, width)


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The file opened by Pillow; any failure, also of the decoding inside the block, becomes an ImageError."""
    name = printable(path)
    try:
        if not is_file(path):
            raise ImageError(f"{name}: {'not a regular file' if path.exists() else 'no such file'}")
        with _open_unlimited(path) as image:
            if image.width * image.height > max_pixels:
                count = f"{image.width}x{image.height} = {image.width * image.height:,} pixels"
                raise ImageError(f"{name}: {count}, the limit is {max_pixels:,}")
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: {_why_unidentified(path)}; accepted: {', '.join(READ_FORMATS)}") from error
    except MemoryError as error:
        raise ImageError(f"{name}: not enough memory to decode it") from error
    except Exception as error:  # decoders raise anything on damaged files
        reason = (isinstance(error, OSError) and error.strerror) or f"damaged or truncated ({error}); replace the file"
        raise ImageError(" ".join(f"{name}: {reason}".split())) from error


def _why_unidentified(path: Path) -> str:
    with open_file(path) as file:
        head = file.read(4)
    if head in TIFF_SIGNATURES:
        return "damaged, or a kind of TIFF that is not read; save it as PNG"
    return "not an image of a known format" if head else "the file is empty"


def _open_unlimited(path: Path) -> ImageFile.ImageFile:
    """Read the header only. Pillow would warn of a large picture, or refuse it, whatever our own limit is."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(open_file(path) if in_tar(path) else path, formats=READ_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _samples(image: Image.Image, path: Path) -> tuple[Tensor, int, bytes]:
    """Samples (C,H,W) as in Decoded, their bit depth, and the colour profile that fits them."""
    icc_profile: bytes = image.info.get("icc_profile") or b""
    file_bits = png.bits_per_sample(path) if image.format == "PNG" else 8
    if image.format == "TIFF":
        file_bits = max(image.tag_v2.get(258, (1,)))  # type: ignore[attr-defined]
    if file_bits == 16 and deep.can_be_read(image):
        samples = deep.read_deep(image, lambda: _open_unlimited(path))
        return torch.from_numpy(samples).permute(2, 0, 1), 16, icc_profile
    image.load()
    if file_bits == 16 and image.format == "TIFF" and image.mode.startswith("I;16"):
        samples = torch.from_numpy(np.asarray(image).astype(np.int32))[None]
        is_inverted = image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO  # type: ignore[attr-defined]
        return 65535 - samples if is_inverted else samples, 16, icc_profile
    if file_bits > 8 or image.mode in ("I", "F", "LAB", "HSV"):
        kind = f"{image.format} of {file_bits} bits per sample, mode {image.mode}"
        raise ImageError(f"{printable(path)}: {kind} cannot be read in full depth; save it as 8-bit or 16-bit PNG")
    if image.mode == "CMYK":
        image, icc_profile = _cmyk_to_rgb(image, icc_profile), b""
    array = np.array(image.convert(_plain_mode(image)))
    return torch.from_numpy(array).reshape(*array.shape[:2], -1).permute(2, 0, 1), 8, icc_profile


def _plain_mode(image: Image.Image) -> str:
    """The mode among L, LA, RGB, RGBA that holds all of an 8-bit picture."""
    grey = image.mode in ("1", "L", "LA", "La")
    transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return ("LA" if transparent else "L") if grey else ("RGBA" if transparent else "RGB")


def _cmyk_to_rgb(image: Image.Image, icc_profile: bytes) -> Image.Image:
    """Through the colour profile of the file to sRGB where there is one that works."""
    if icc_profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")


def _exif(image: Image.Image, getexif: Callable[[Image.Image], Image.Exif]) -> tuple[int, bytes]:
    """The orientation 1..8 in which the samples lie, and the EXIF block with orientation 1."""
    try:
        exif = getexif(image)
        for tag in set(exif) if image.format == "TIFF" else ():
            if tag not in DESCRIPTIVE_TIFF_TAGS:
                del exif[tag]
        orientation = exif.get(ORIENTATION, 1)
        if ORIENTATION in exif:
            exif[ORIENTATION] = 1
        content = exif.tobytes() if len(exif) else b""
    except Exception:  # a damaged EXIF block does not make the picture unreadable
        return 1, b""
    return (orientation if orientation in range(1, 9) else 1), content


def _num_frames(image: Image.Image) -> int:
    """Frames or pages. A JPEG photograph is one picture: what phones add are previews, maps of depth and of light."""
    try:
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception:  # a damaged second frame does not make the first unreadable
        return 1


def _upright(samples: Tensor, orientation: int) -> Tensor:
    """Turn samples (C,H,W) as EXIF orientation 1..8 says (CIPA DC-008, section 4.6.4)."""
    if orientation in (5, 6, 7, 8):
        samples = samples.transpose(1, 2)
    flipped = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation, ())
    return samples.flip(flipped) if flipped else samples
