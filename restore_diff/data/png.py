"""What Pillow does not do for PNG files: tell their bit depth, find late metadata cheaply, write 16 bits per sample."""

import struct
import zlib
from pathlib import Path

from torch import Tensor

from restore_diff.data.formats import PNG_SIGNATURE
from restore_diff.data.members import open_file


def bits_per_sample(path: Path) -> int:
    """The bit depth that the header of a PNG file states."""
    with open_file(path) as file:
        return file.read(25)[24]


def has_late_metadata(path: Path) -> bool:
    """Whether EXIF or text comes after the pixels, where Pillow finds it only by decoding them."""
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


def encode(samples: Tensor, exif: bytes, icc_profile: bytes) -> bytes:
    """The file that holds `samples` (C,H,W), integers in 0..65535. Chunks: W3C PNG specification, 3rd edition."""
    channels, height, width = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = samples.permute(1, 2, 0).numpy().astype(">u2").reshape(height, -1).view("u1")
    filtered = rows.copy()  # filter 1, "Sub": each byte less the same byte of the pixel to the left
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
