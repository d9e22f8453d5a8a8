"""Decode image files of any accepted kind to upright integer samples with their metadata, at 8 or 16 bits."""

import io
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import BmpImagePlugin, Image, ImageCms, ImageFile, UnidentifiedImageError
from torch import Tensor

from restore_diff.data import readers
from restore_diff.data.archive import in_zip, is_file, open_file
from restore_diff.data.formats import HEAD_BYTES, recognise, why_not_read
from restore_diff.data.metadata import Metadata, read_metadata, read_orientation, read_raw_metadata, walk_png
from restore_diff.data.names import ImageError
from restore_diff.files import printable

MAX_PIXELS = 200_000_000
"""Limit on the size of a picture unless the caller allows more: a file of a few kB can claim any size."""
READ_FORMATS = ("PNG", "JPEG", "WebP", "TIFF", "BMP", "GIF", "AVIF", "JPEG 2000", "PPM", "QOI")
"""Read by Pillow. TGA has no signature and is tried for files of that name only."""
PHOTOMETRIC, WHITE_IS_ZERO, RGB, INKS = 262, 0, 2, 5
PLANAR_CONFIGURATION, SEPARATE = 284, 2
SAMPLE_FORMAT, SIGNED = 339, 2
STRIP_OFFSETS, TILE_WIDTH, TILE_OFFSETS = 273, 322, 324
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
    metadata: Metadata
    num_frames: int
    """Frames of an animation or pages of a TIFF file; `samples` are the first."""


def decode(path: Path, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode a picture; of an animation, the first frame. ImageError if it cannot be decoded without loss."""
    with _image_errors(path):
        if readers.is_raw(path):
            samples = torch.from_numpy(readers.develop(path, max_pixels)).permute(2, 0, 1)
            return Decoded(samples, 16, read_raw_metadata(path), 1)
    with opened(path, max_pixels) as image:
        samples, bit_depth = _samples(image, path)
        orientation, metadata = read_metadata(image, path)
        if image.mode == "CMYK":
            lost = (*metadata.lost, "CMYK (converted to RGB)")
            metadata = replace(metadata, icc_profile=b"", lost=lost)
        if bit_depth > 8:
            metadata = replace(metadata, bits=_file_bits(image, path))
        num_frames = _num_frames(image)
    return Decoded(_upright(samples, orientation), bit_depth, metadata, num_frames)


def read_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the upright picture from the header of the file."""
    with _image_errors(path):
        if readers.is_raw(path):
            return readers.read_raw_size(path)
    with opened(path) as image:
        width, height = image.size
        if image.format == "PNG" and _has_late_metadata(path):
            image.load()
        return (width, height) if read_orientation(image) >= 5 else (height, width)


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open the file by Pillow; any failure, also of decoding inside the block, becomes an ImageError.

    ImageError for camera RAW files, whose first picture may be a preview, and for TIFF files that Pillow misreads.
    """
    with _image_errors(path), _open(path, max_pixels) as image:
        readers.refuse_size(path, image.width, image.height, max_pixels)
        if image.format == "TIFF":
            _check_tiff(image, path)
        yield image


@contextmanager
def _image_errors(path: Path) -> Iterator[None]:
    name = printable(path)
    try:
        if not is_file(path):
            raise ImageError(f"{name}: {'not a regular file' if path.exists() else 'no such file'}")
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: {_why_unidentified(path)}; accepted: {', '.join(READ_FORMATS)}, HEIC") from error
    except MemoryError as error:
        raise ImageError(f"{name}: not enough memory to decode it") from error
    except Exception as error:  # decoders raise anything on damaged files
        reason = (isinstance(error, OSError) and error.strerror) or f"damaged or truncated ({error}); replace the file"
        raise ImageError(" ".join(f"{name}: {reason}".split())) from error


def _has_late_metadata(path: Path) -> bool:
    """Return whether EXIF or text follows the pixels of a PNG file, where Pillow finds it only by decoding them."""
    kinds = [kind for kind, _ in walk_png(path)]
    last_pixels = max((at for at, kind in enumerate(kinds) if kind == b"IDAT"), default=len(kinds))
    return not {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}.isdisjoint(kinds[last_pixels:])


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
        head = file.read(HEAD_BYTES)
    known = recognise(head)
    if known is None:
        return "not an image of a known format" if head else "the file is empty"
    if known.name == "TIFF":
        return "damaged, or a kind of TIFF that is not read; save it as PNG"
    return why_not_read(known) or f"damaged {known.name} file; replace it"


def _open(path: Path, max_pixels: int) -> Image.Image:
    """Return the picture of a file with its header read, and its pixels too for JPEG XL."""
    with open_file(path) as file:
        known = recognise(file.read(HEAD_BYTES))
    name = known.name if known else ""
    if name == "HEIC":
        return readers.open_heif(path)
    if name == "JPEG XL":
        return readers.open_jxl(path, max_pixels)
    if name in ("TIFF", "camera RAW") and readers.is_raw(path):
        raise ImageError(f"{printable(path)}: a camera RAW file; develop it to PNG first")
    if known is None and path.suffix.lower() == ".tga":
        return _open_unlimited(path, "TGA")
    if name not in READ_FORMATS:
        raise UnidentifiedImageError
    return _open_unlimited(path, name.upper().replace(" ", ""))


def _open_unlimited(path: Path, kind: str) -> ImageFile.ImageFile:
    """Read the header without the limit of Pillow, which warns of large pictures or refuses them."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        BmpImagePlugin.USE_RAW_ALPHA = True  # type: ignore[attr-defined]  # else the fourth byte of a pixel is ignored
        try:
            return Image.open(open_file(path) if in_zip(path) else path, formats=[kind])
        finally:
            Image.MAX_IMAGE_PIXELS = limit
            BmpImagePlugin.USE_RAW_ALPHA = False  # type: ignore[attr-defined]


def _check_tiff(image: Image.Image, path: Path) -> None:
    """Refuse what Pillow would misread, and a file whose first picture is a preview of another; correct the tiles."""
    tags, name = image.tag_v2, printable(path)  # type: ignore[attr-defined]
    if SIGNED in tags.get(SAMPLE_FORMAT, ()) and max(tags.get(258, (1,))) <= 8:
        raise ImageError(f"{name}: TIFF of signed 8-bit samples has no agreed black and white; save it as PNG")
    is_planar = tags.get(PLANAR_CONFIGURATION, 1) == SEPARATE and tags.get(277, 1) > 1
    is_plain = tags.get(PHOTOMETRIC) in (RGB, INKS) and "a" not in _layout(image)  # a: premultiplied
    if is_planar and not is_plain:
        raise ImageError(f"{name}: TIFF with separate planes of mode {image.mode} is not read; save it as PNG")
    if preview := readers.why_preview(path):
        raise ImageError(f"{name}: {preview}")
    if TILE_WIDTH in tags and STRIP_OFFSETS in tags and TILE_OFFSETS not in tags:
        tags[TILE_OFFSETS] = tags[STRIP_OFFSETS]  # some programs write the places of tiles under the name for strips
        del tags[STRIP_OFFSETS]
        image._setup()  # type: ignore[attr-defined]


def _samples(image: Image.Image, path: Path) -> tuple[Tensor, int]:
    """Return samples (C,H,W) and their bit depth as in Decoded, not turned upright."""
    file_bits, samples = _file_bits(image, path), None
    if image.format == "HEIF" and file_bits > 8:
        samples = readers.read_deep_heif(path)
    elif image.format == "PPM" and file_bits > 8 and image.tile[0].codec_name != "ppm_plain":  # type: ignore[attr-defined]
        samples = _read_deep_ppm(image, path)
    elif file_bits == 16 and _can_read_deep(image):
        samples = _read_deep(image, lambda: _open_unlimited(path, str(image.format)))
    elif image.format in ("AVIF", "JXL") and file_bits > 8 and image.mode != "I;16":
        samples = readers.read_deep(path, image.format, file_bits)
    if samples is not None:
        return torch.from_numpy(samples).permute(2, 0, 1), 16
    image.load()
    if isinstance(image.info.get("transparency"), str):  # a text of this name in a PNG file
        del image.info["transparency"]
    if file_bits == 16 and image.format != "PNG" and image.mode.startswith("I;16"):
        samples = torch.from_numpy(np.asarray(image).astype(np.int32))[None]
        is_inverted = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO  # type: ignore[attr-defined]
        return 65535 - samples if is_inverted else samples, 16
    if file_bits > 8 or image.mode in ("I", "F", "LAB", "HSV"):
        kind = f"{image.format} of {file_bits} bits per sample, mode {image.mode}"
        raise ImageError(f"{printable(path)}: {kind} cannot be read in full depth; save it as 8-bit or 16-bit PNG")
    if image.mode == "CMYK":
        image = _cmyk_to_rgb(image, image.info.get("icc_profile") or b"")
    array = np.array(image.convert(_plain_mode(image)))
    if image.format == "BMP" and image.mode == "RGBA" and array[..., 3].min() == array[..., 3].max() in (0, 255):
        array = array[..., :3]  # padding
    return torch.from_numpy(array).reshape(*array.shape[:2], -1).permute(2, 0, 1), 8


def _file_bits(image: Image.Image, path: Path) -> int:
    """Return the bits per sample that the file declares; 8 where all files of the format have 8 or fewer."""
    if image.format == "PNG":
        with open_file(path) as file:
            return file.read(25)[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,)))  # type: ignore[attr-defined]
    if image.format in ("HEIF", "JXL"):
        return image.info["bit_depth"]
    if image.format == "PPM":
        args = image.tile[0].args  # type: ignore[attr-defined]
        largest = args[1] if isinstance(args, tuple) and image.mode != "F" else 65535 if args == "I;16B" else 255
        return 16 if largest > 255 else 8
    if image.format not in ("AVIF", "JPEG2000"):
        return 8
    with open_file(path) as file:
        head = file.read(2**16)
    if found := re.search(rb"av1C..(.)", head, re.DOTALL):  # AV1 in ISOBMFF, section 2.3.3
        return {0: 8, 2: 10, 3: 12}[found[1][0] >> 5 & 3]
    if found := re.search(rb"\xff\x4f\xff\x51.{36}(..)", head, re.DOTALL):  # ITU-T T.800, annex A.5.1
        count = int.from_bytes(found[1], "big")
        return max((depth & 127) + 1 for depth in head[found.end() :][: 3 * count : 3])
    return 8


def _read_deep_ppm(image: Image.Image, path: Path) -> np.ndarray:
    """Return int32 (H,W,C) in 0..65535 of a binary PGM or PPM file with two bytes per sample."""
    tile = image.tile[0]  # type: ignore[attr-defined]
    largest = tile.args[1] if isinstance(tile.args, tuple) else 65535
    shape = (image.height, image.width, 3 if image.mode == "RGB" else 1)
    with open_file(path) as file:
        file.seek(tile.offset)
        samples = np.frombuffer(file.read(2 * int(np.prod(shape))), ">u2").reshape(shape).astype(np.int64)
    return np.minimum((samples * 65535 + largest // 2) // largest, 65535).astype(np.int32)


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
