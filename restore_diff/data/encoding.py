"""Encode integer samples with their metadata as the bytes of an image file."""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from restore_diff.data.formats import PNG_SIGNATURE
from restore_diff.data.metadata import EXIF_PREFIX, photoshop_segment, png_chunk, png_chunks, tiff_directory
from restore_diff.data.readers import encode_heif

PNG_COMPRESSION = 4
"""Of 0 to 9. The default 6 takes twice the time, a quarter of a fast restoration, for 2 to 4 % smaller files."""
DEEP_FORMATS = ("PNG", "TIFF", "HEIF")
"""Formats that are written with more than 8 bits per sample."""
PNG_HEADER_BYTES = len(PNG_SIGNATURE) + 25


def encode(samples: Tensor, kind: str, quality: int, fields: Mapping[str, Any], lost: list[str]) -> bytes:
    """Encode (C,H,W): uint8, or int32 0..65535 in DEEP_FORMATS. C: 1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha.

    `fields` are those of Metadata that the format holds; EXIF tags that cannot be written are added to `lost`.
    """
    array = samples.permute(1, 2, 0).numpy()
    is_deep = array.dtype != np.uint8
    if kind == "HEIF":
        return encode_heif(array, quality, dict(fields))
    if is_deep:
        return encode_png(samples, fields) if kind == "PNG" else encode_tiff(samples, fields, lost)
    if kind == "BMP" and array.shape[2] == 4:
        return _encode_bmp_with_alpha(array, fields)
    image = Image.fromarray(array[..., 0] if len(samples) == 1 else array)
    buffer = io.BytesIO()
    image.save(buffer, kind, **_options(kind, quality, fields, lost))
    content = buffer.getvalue()
    if kind == "PNG":
        return content[:PNG_HEADER_BYTES] + png_chunks(fields) + content[PNG_HEADER_BYTES:]
    return content


def _options(kind: str, quality: int, fields: Mapping[str, Any], lost: list[str]) -> dict[str, Any]:
    """Return the options of Pillow for a format."""
    options = {name: fields[name] for name in ("icc_profile", "xmp") if name in fields}
    if "exif" in fields:
        options["exif"] = EXIF_PREFIX + fields["exif"]
    if kind == "PNG":
        return {"compress_level": PNG_COMPRESSION}
    if kind == "TIFF":
        return {"tiffinfo": tiff_directory(fields, lost)}
    if kind == "BMP":
        return {"dpi": fields.get("dpi", (0, 0))}
    if kind == "WEBP":
        return options | {"quality": quality, "exact": True}
    if kind == "AVIF":
        return options | {"quality": quality, "subsampling": "4:4:4"}
    options |= {name: fields[name] for name in ("comment", "dpi") if name in fields}
    if "photoshop" in fields:
        options["extra"] = photoshop_segment(fields["photoshop"])
    return options | {"quality": quality, "subsampling": 0}


def encode_png(samples: Tensor, fields: Mapping[str, Any]) -> bytes:
    """Encode integers 0..65535 (C,H,W) as 16-bit PNG. Chunks: W3C PNG specification, 3rd edition."""
    channels, height, width = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = samples.permute(1, 2, 0).numpy().astype(">u2").reshape(height, -1).view("u1")
    filtered = rows.copy()  # filter 1, "Sub": each byte minus the same byte of the pixel to the left
    filtered[:, 2 * channels :] -= rows[:, : -2 * channels]
    scanlines = b"".join(b"\x01" + row.tobytes() for row in filtered)
    pixels = png_chunk(b"IDAT", zlib.compress(scanlines)) + png_chunk(b"IEND", b"")
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunks(fields) + pixels


def encode_tiff(samples: Tensor, fields: Mapping[str, Any], lost: list[str]) -> bytes:
    """Encode integers 0..65535 (C,H,W) as 16-bit TIFF: one strip, deflated. Tags: Adobe TIFF 6.0.

    C: 1 grey, 3 RGB, 4 RGB + alpha. Pillow does not write 16 bits in colour.
    """
    channels, height, width = samples.shape
    pixels = samples.permute(1, 2, 0).numpy().astype("<u2")
    differences = pixels.copy()  # predictor 2: each sample minus that of the pixel to the left
    differences[:, 1:] -= pixels[:, :-1]
    strip = zlib.compress(differences.tobytes())
    directory = tiff_directory(fields, lost)
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
    for tag, value in tags.items():
        directory[tag] = value
    file = io.BytesIO()
    directory.save(file)
    return file.getvalue() + strip


def _encode_bmp_with_alpha(array: np.ndarray, fields: Mapping[str, Any]) -> bytes:
    """Encode (H,W,4) uint8 as BMP with a version 4 header, which declares alpha (Microsoft, BITMAPV4HEADER).

    Pillow writes the fourth byte without declaring it, so that other programs ignore it.
    """
    height, width, _ = array.shape
    pixels = np.ascontiguousarray(array[::-1, :, [2, 1, 0, 3]]).tobytes()  # rows from the bottom, BGRA
    per_metre = (round(dots / 0.0254) for dots in fields.get("dpi", (0, 0)))
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(pixels), *per_metre, 0, 0)
    header += struct.pack("<4I4s48x", *masks, b"BGRs")  # sRGB
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels
