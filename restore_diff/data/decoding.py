"""Decode image files of any accepted kind to upright integer samples with their metadata, at 8 or 16 bits."""

import io
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError
from torch import Tensor

from restore_diff.data.archive import in_zip, is_file, open_file
from restore_diff.data.names import PNG_SIGNATURE, ImageError
from restore_diff.files import printable

MAX_PIXELS = 200_000_000
"""Limit on the size of a picture unless the caller allows more: a file of a few kB can claim any size."""
READ_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 0x0112
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
PLANAR_CONFIGURATION, SEPARATE = 284, 2
# A TIFF file keeps EXIF among the tags for its storage; only these describe the picture.
DESCRIPTIVE_TIFF_TAGS = (270, 271, 272, ORIENTATION, 282, 283, 296, 305, 306, 315, 33432, 34665, 34853)
HIGH_BYTES = {"little": "16L", "big": "16B"}
"""Pillow's raw mode that keeps the high bytes, by byte order of the file. The other one keeps the low bytes."""
TIFF_LAYOUTS = tuple(f"{colours};16{order}" for colours in ("RGB", "RGBA") for order in "LBN")

_opening = threading.Lock()
"""Held while Pillow's own size limit, a global of its module, is lifted."""


class Decoded(NamedTuple):
    """Content of an image file."""

    samples: Tensor
    """(C,H,W) upright, uint8 or, with 16 bits, int32. C: 1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha."""
    bit_depth: int
    """8 or 16 bits per sample."""
    icc_profile: bytes
    exif: bytes
    """With orientation 1, because the samples are upright."""
    num_frames: int
    """Frames of an animation or pages of a TIFF file; `samples` are the first."""


def decode(path: Path, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode a picture; of an animation, the first frame. ImageError if it cannot be decoded without loss."""
    with opened(path, max_pixels) as image:
        samples, bit_depth, icc_profile = _samples(image, path)
        orientation, exif = _exif(image, type(image).getexif)
        num_frames = _num_frames(image)
    return Decoded(_upright(samples, orientation), bit_depth, icc_profile, exif, num_frames)


def read_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the upright picture from the header of the file."""
    with opened(path) as image:
        width, height = image.size
        is_early = image.format == "PNG" and not _has_late_metadata(path)
        getexif = Image.Image.getexif if is_early else type(image).getexif  # the latter decodes the pixels of a PNG
        turned = image.format != "TIFF" and _exif(image, getexif)[0] >= 5  # Pillow turns TIFF itself
    return (width, height) if turned else (height, width)


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open the file by Pillow; any failure, also of decoding inside the block, becomes an ImageError."""
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


def encode_png(samples: Tensor, exif: bytes, icc_profile: bytes) -> bytes:
    """Encode integers 0..65535 (C,H,W) as 16-bit PNG. Chunks: W3C PNG specification, 3rd edition."""
    channels, height, width = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = samples.permute(1, 2, 0).numpy().astype(">u2").reshape(height, -1).view("u1")
    filtered = rows.copy()  # filter 1, "Sub": each byte minus the same byte of the pixel to the left
    filtered[:, 2 * channels :] -= rows[:, : -2 * channels]
    scanlines = b"".join(b"\x01" + row.tobytes() for row in filtered)
    chunks = [_chunk(b"IHDR", header)]
    if icc_profile:
        chunks.append(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile)))
    if exif:
        chunks.append(_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [_chunk(b"IDAT", zlib.compress(scanlines)), _chunk(b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png_bits(path: Path) -> int:
    """Return the bit depth in the header of a PNG file."""
    with open_file(path) as file:
        return file.read(25)[24]


def _has_late_metadata(path: Path) -> bool:
    """Return whether EXIF or text follows the pixels of a PNG file, where Pillow finds it only by decoding them."""
    seen_pixels = False
    with open_file(path) as file:
        file.seek(len(PNG_SIGNATURE))
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            seen_pixels |= kind == b"IDAT"
            if seen_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(length + 4, 1)
    return False


def _can_read_deep(image: Image.Image) -> bool:
    """Return whether an opened 16-bit TIFF in colour or PNG is stored in a layout that `_read_deep` can read.

    Not if a TIFF file stores its colours in separate planes: Pillow chooses their layout itself.
    """
    if image.format == "TIFF":
        is_together = image.tag_v2.get(PLANAR_CONFIGURATION, 1) != SEPARATE  # type: ignore[attr-defined]
        return is_together and _layout(image) in TIFF_LAYOUTS
    return image.format == "PNG" and "transparency" not in image.info


def _read_deep(image: Image.Image, reopen: Callable[[], Image.Image]) -> np.ndarray:
    """Return int32 (H,W,C) in 0..65535 of an opened file, decoded once for the high bytes and once for the low bytes.

    Pillow has no 16-bit colour mode.
    """
    layout = _layout(image)
    if layout == "I;16B":  # grey: Pillow keeps all bits
        return _read(image, layout)
    if layout == "LA;16B":  # as many bytes per pixel as 8-bit RGBA, and read as that
        pairs = _read(image, "RGBA")
        return pairs[..., 0::2] * 256 + pairs[..., 1::2]
    order = {"L": "little", "B": "big", "N": sys.byteorder}[layout[-1]]
    colours, high = layout[:-3], HIGH_BYTES[order]
    low = next(other for other in HIGH_BYTES.values() if other != high)
    samples = _read(image, colours + high)
    samples *= 256
    with reopen() as again:
        samples += _read(again, colours + low)
    return samples


def _layout(image: Image.Image) -> str:
    args = image.tile[0].args  # type: ignore[attr-defined]
    return str(args if isinstance(args, str) else args[0])


def _read(image: Image.Image, layout: str) -> np.ndarray:
    tiles = image.tile  # type: ignore[attr-defined]
    args = [layout if isinstance(tile.args, str) else (layout, *tile.args[1:]) for tile in tiles]
    image.tile = [tile._replace(args=new) for tile, new in zip(tiles, args, strict=True)]  # type: ignore[attr-defined]
    return np.atleast_3d(np.asarray(image).astype(np.int32))


def _why_unidentified(path: Path) -> str:
    with open_file(path) as file:
        head = file.read(4)
    if head in TIFF_SIGNATURES:
        return "damaged, or a kind of TIFF that is not read; save it as PNG"
    return "not an image of a known format" if head else "the file is empty"


def _open_unlimited(path: Path) -> ImageFile.ImageFile:
    """Read the header without the limit of Pillow, which warns of large pictures or refuses them."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(open_file(path) if in_zip(path) else path, formats=READ_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _samples(image: Image.Image, path: Path) -> tuple[Tensor, int, bytes]:
    """Return samples (C,H,W) as in Decoded, their bit depth, and their colour profile."""
    icc_profile: bytes = image.info.get("icc_profile") or b""
    file_bits = _png_bits(path) if image.format == "PNG" else 8
    if image.format == "TIFF":
        file_bits = max(image.tag_v2.get(258, (1,)))  # type: ignore[attr-defined]
    if file_bits == 16 and _can_read_deep(image):
        samples = _read_deep(image, lambda: _open_unlimited(path))
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
    """Return the mode among L, LA, RGB, RGBA that holds an 8-bit picture without loss."""
    grey = image.mode in ("1", "L", "LA", "La")
    transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return ("LA" if transparent else "L") if grey else ("RGBA" if transparent else "RGB")


def _cmyk_to_rgb(image: Image.Image, icc_profile: bytes) -> Image.Image:
    """Convert by the colour profile of the file to sRGB if it has a valid one."""
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
    """Return the orientation 1..8 of the samples, and the EXIF block with orientation 1."""
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
    """Count frames or pages. A JPEG photograph is one picture: phones add previews, depth and gain maps."""
    try:
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception:  # a damaged second frame does not make the first unreadable
        return 1


def _upright(samples: Tensor, orientation: int) -> Tensor:
    """Turn samples (C,H,W) by EXIF orientation 1..8 (CIPA DC-008, section 4.6.4)."""
    if orientation in (5, 6, 7, 8):
        samples = samples.transpose(1, 2)
    flipped = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation, ())
    return samples.flip(flipped) if flipped else samples
