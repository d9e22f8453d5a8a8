"""Formats that Pillow alone does not read: HEIC, JPEG XL, camera RAW. Their packages are imported when needed."""

import io
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from restore_diff.data.archive import open_file
from restore_diff.data.formats import FORMATS, HEAD_BYTES, RAW_ENDINGS, recognise, why_not_read
from restore_diff.data.names import ImageError
from restore_diff.files import printable

NEW_SUBFILE_TYPE, SUBFILE_TYPE, PHOTOMETRIC, SUB_DIRECTORIES, DNG_VERSION = 254, 255, 262, 330, 50706
FILTER_ARRAY, LINEAR_RAW = 32803, 34892
MAX_TAGS = 4096
HEVC_PRESET = "ultrafast"
"""The default of x265 takes 7 times the time for files that are 15 % smaller, at a PSNR lower by 1 dB."""
JXL_SIGNATURE = b"\xff\x0a"
ANIMATION_HEADER = (
    ((0, 100), (0, 1000), (10, 1), (30, 1)),  # ticks per second
    ((0, 1), (0, 1001), (8, 1), (10, 1)),
    ((0, 0), (3, 0), (16, 0), (32, 0)),  # loops
)


def require_reader(name: str, path: Path) -> None:
    """Raise ImageError with the package to install if the format cannot be read here."""
    if reason := why_not_read(FORMATS[name]):
        raise ImageError(f"{printable(path)}: {reason}")


def is_raw(path: Path) -> bool:
    """Return whether a file holds the data of a camera's sensor. Its first picture may then be a preview."""
    with open_file(path) as file:
        known = recognise(file.read(HEAD_BYTES))
        if known is not FORMATS["TIFF"]:
            return known is FORMATS["camera RAW"]
        if path.suffix.lower() in RAW_ENDINGS:
            return True
        tags = next(_directories(file), {})
    return DNG_VERSION in tags or tags.get(PHOTOMETRIC) in (FILTER_ARRAY, LINEAR_RAW)


def why_preview(path: Path) -> str:
    """Return why the first picture of a TIFF file is not its photograph, or ""."""
    with open_file(path) as file:
        first, *others = list(_directories(file))
        others += [tags for offset in first.get(SUB_DIRECTORIES, ()) for tags in _directories(file, offset)]
    width, height = _size(first)
    advice = "name a camera RAW file by its own ending, else save the full picture as PNG"
    if first.get(NEW_SUBFILE_TYPE, 0) & 1 or first.get(SUBFILE_TYPE) == 2:
        return f"its first picture is marked as a preview ({width}x{height}); {advice}"
    for other_width, other_height in map(_size, others):
        is_same_shape = abs(other_width * height - other_height * width) <= max(other_width, other_height)
        if other_width >= 2 * width and is_same_shape:  # pages of one document may differ by less
            larger = f"{other_width}x{other_height}"
            return f"its first picture ({width}x{height}) is a preview of another ({larger}); {advice}"
    return ""


def open_heif(path: Path) -> Image.Image:
    """Return the primary picture of a HEIF file, not yet decoded; 8 bits per sample, see `read_deep_heif`."""
    require_reader("HEIC", path)
    from pillow_heif import HeifImageFile

    return HeifImageFile(open_file(path))


def read_deep_heif(path: Path) -> np.ndarray:
    """Return (H,W,C) int32 in 0..65535 of a HEIF file with more than 8 bits per sample."""
    from pillow_heif import HeifFile

    file = HeifFile(open_file(path), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    picture = file[file.primary_index]
    return _to_16_bits(np.atleast_3d(np.asarray(picture)), picture.info["bit_depth"])


def encode_heif(samples: np.ndarray, quality: int, fields: dict[str, Any]) -> bytes:
    """Encode (H,W,C) as HEIC: uint8, or integers 0..65535 as 10 bits per sample."""
    import pillow_heif

    height, width, channels = samples.shape
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if samples.dtype != np.uint8:
        mode += ";16"
        samples = ((samples.astype(np.int64) * 1023 + 32767) // 65535 << 6).astype("<u2")
    options: dict[str, Any] = {name: fields[name] for name in ("exif", "xmp", "icc_profile") if name in fields}
    options["enc_params"] = {"preset": HEVC_PRESET}
    for kind, content in fields.get("colours", ()):
        if kind == b"cICP":
            options |= {"color_primaries": content[0], "transfer_characteristics": content[1]}
            options |= {"matrix_coefficients": 6, "full_range_flag": 1}
    buffer = io.BytesIO()
    data = np.ascontiguousarray(samples).tobytes()
    pillow_heif.encode(mode, (width, height), data, buffer, quality=quality, subsampling="4:4:4", **options)
    return buffer.getvalue()


def open_jxl(path: Path, max_pixels: int) -> Image.Image:
    """Return a JPEG XL picture, decoded with 8 bits per sample of colour. ImageError for more pixels than allowed."""
    require_reader("JPEG XL", path)
    with open_file(path) as file:
        content = file.read()
    width, height, bits = _jxl_header(content)
    refuse_size(path, width, height, max_pixels)
    from pillow_jxl.JpegXLImagePlugin import JXLImageFile

    image = JXLImageFile(open_file(path))
    image.info |= _jxl_boxes(content) | {"bit_depth": bits}
    return image


def read_deep(path: Path, kind: str, bits: int) -> np.ndarray:
    """Return (H,W,C) int32 in 0..65535 of an AVIF or JPEG XL file, of which Pillow keeps 8 bits.

    ImageError for JPEG XL of other than 16 bits, and without the package imagecodecs.
    """
    what = f"{printable(path)}: {kind} of {bits} bits per sample"
    if kind == "JXL" and bits != 16:
        raise ImageError(f"{what} cannot be read in full depth; save it as 16-bit PNG")
    if find_spec("imagecodecs") is None:
        raise ImageError(f"{what} needs another package: pip install 'restore_diff[deep]'")
    import imagecodecs

    with open_file(path) as file:
        content = file.read()
    samples = imagecodecs.jpegxl_decode(content) if kind == "JXL" else imagecodecs.avif_decode(content)
    return _to_16_bits(np.atleast_3d(samples), bits)


def _to_16_bits(samples: np.ndarray, bits: int) -> np.ndarray:
    largest = 2**bits - 1
    return ((samples.astype(np.int64) * 65535 + largest // 2) // largest).astype(np.int32)


def develop(path: Path, max_pixels: int) -> np.ndarray:
    """Return (H,W,3) int32 in 0..65535 of a camera RAW file, upright, in sRGB.

    White balance of the camera, no automatic brightening: exposure stays, and highlights are not cut off.
    """
    require_reader("camera RAW", path)
    import rawpy

    with rawpy.imread(open_file(path)) as raw:
        refuse_size(path, raw.sizes.iwidth, raw.sizes.iheight, max_pixels)
        samples = raw.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=16, gamma=(2.4, 12.92))
    return samples.astype(np.int32)


def read_raw_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the upright picture of a camera RAW file."""
    require_reader("camera RAW", path)
    import rawpy

    with rawpy.imread(open_file(path)) as raw:
        sizes = raw.sizes
        return (sizes.iwidth, sizes.iheight) if sizes.flip & 4 else (sizes.iheight, sizes.iwidth)


def refuse_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Raise ImageError for a picture of too many pixels."""
    if width * height > max_pixels:
        count = f"{width}x{height} = {width * height:,} pixels"
        raise ImageError(f"{printable(path)}: {count}, the limit is {max_pixels:,}")


def _size(tags: dict[int, Any]) -> tuple[int, int]:
    return tags.get(256, 0), tags.get(257, 0)


def _directories(file: BinaryIO, start: int = 0) -> Iterator[dict[int, Any]]:
    """Yield the tags of each directory of a TIFF file: the first number of each, all of SUB_DIRECTORIES.

    They end where the file is damaged. With `start`, the directory at that place only.
    """
    file.seek(0)
    head = file.read(16)
    order, is_big = "<" if head[:2] == b"II" else ">", b"+" in head[2:4]
    pointer, entry = ("Q", "HHQ8s") if is_big else ("I", "HHI4s")

    def numbers(at: int, layout: str) -> tuple[Any, ...]:
        file.seek(at)
        return struct.unpack(order + layout, file.read(struct.calcsize(order + layout)))

    def tags_at(at: int) -> tuple[dict[int, Any], int]:
        """The tags of the directory at this byte, and the place of the pointer to the next one."""
        (count,) = numbers(at, "Q" if is_big else "H")
        at += 8 if is_big else 2
        found = {}
        for _ in range(min(count, MAX_TAGS)):
            tag, kind, amount, value = numbers(at, entry)
            at += struct.calcsize(order + entry)
            found[tag] = struct.unpack_from(order + {3: "H", 16: "Q", 13: pointer}.get(kind, "I"), value)[0]
            if tag == SUB_DIRECTORIES:
                layout = f"{min(amount, MAX_TAGS)}{'I' if kind in (4, 13) and not is_big else 'Q'}"
                found[tag] = (found[tag],) if amount == 1 else numbers(found[tag], layout)
        return found, at

    seen: set[int] = set()
    try:
        at = start or struct.unpack_from(order + pointer, head, 8 if is_big else 4)[0]
        while at and at not in seen and len(seen) < MAX_TAGS:
            seen.add(at)
            tags, end = tags_at(at)
            yield tags
            (at,) = (0,) if start else numbers(end, pointer)
    except (struct.error, OSError, OverflowError):
        return


class _Bits:
    """Numbers of a JPEG XL header (ISO/IEC 18181-1, annex B), from the least significant bit on."""

    def __init__(self, content: bytes):
        self._bits = int.from_bytes(content, "little")

    def read(self, count: int) -> int:
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        return value

    def choose(self, *options: tuple[int, int]) -> int:
        """Return a number of (bits, offset), one of four options."""
        bits, offset = options[self.read(2)]
        return self.read(bits) + offset


def _jxl_boxes(content: bytes) -> dict[str, Any]:
    """Return XMP, and the names of parts that are not read, from the boxes of a JPEG XL file (ISO/IEC 18181-2)."""
    found: dict[str, Any] = {"lost": []}
    at = 0 if content.startswith(b"\0\0\0\x0cJXL ") else len(content)
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if length < 8:  # to the end, or 64 bits: the pixels
            break
        if kind == b"xml ":
            found["xmp"] = content[at + 8 : at + length]
        elif kind in (b"brob", b"jhgm"):
            found["lost"].append("gain map" if kind == b"jhgm" else "compressed metadata")
        at += length
    return found


def _jxl_header(content: bytes) -> tuple[int, int, int]:
    """Return width, height and bits per sample of a JPEG XL file. ValueError if it has no header."""
    start = 0 if content.startswith(JXL_SIGNATURE) else content.find(JXL_SIGNATURE, 12)
    if start < 0:
        raise ValueError("no codestream")
    bits = _Bits(content[start + 2 : start + 64])
    width, height = _jxl_size(bits)
    if bits.read(1):  # all defaults: 8 bits
        return width, height, 8
    if bits.read(1):
        bits.read(3)  # orientation
        if bits.read(1):
            _jxl_size(bits)  # intrinsic size
        if bits.read(1):  # preview
            return width, height, 8
        if bits.read(1):  # animation
            for options in ANIMATION_HEADER:
                bits.choose(*options)
            bits.read(1)
    if bits.read(1):
        return width, height, 32  # floating point
    return width, height, bits.choose((0, 8), (0, 10), (0, 12), (6, 1))


def _jxl_size(bits: _Bits) -> tuple[int, int]:
    lengths = ((9, 1), (13, 1), (18, 1), (30, 1))
    small = bits.read(1)
    height = (bits.read(5) + 1) * 8 if small else bits.choose(*lengths)
    ratio = bits.read(3)
    if ratio:
        up, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return height * up // down, height
    return ((bits.read(5) + 1) * 8 if small else bits.choose(*lengths)), height
