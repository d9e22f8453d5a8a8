"""Small intact image files in every supported format and mode, and functions that damage them."""

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
import tifffile  # scikit-image brings it
import torch
from PIL import Image, ImageCms

from restore_diff.data import encoding
from restore_diff.data.formats import PNG_SIGNATURE

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ICC = ICC[:24] + bytes(12) + ICC[36:]  # without the time at which it was made
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _exif() -> bytes:
    block = Image.Exif()
    block[0x0112], block[0x010F] = 6, "Maker"
    block.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    return block.tobytes()


def _photograph(width: int = 41, height: int = 29) -> Image.Image:
    """Return a smooth image with some noise, which uses all parts of an encoder."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    ramp = np.stack([x * 4, y * 6, (x + y) * 3], axis=-1)
    return Image.fromarray(((ramp + noise) % 256).astype(np.uint8))


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _several(kind: str) -> bytes:
    """Encode three new images: the writers of Pillow leave settings in them."""
    first, *others = (_photograph().rotate(90 * k) for k in range(3))
    return _saved(first, kind, save_all=True, append_images=others)


def _written(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def seeds() -> dict[str, list[bytes]]:
    """Return intact files by format."""
    rgb = _photograph()
    grey, palette, bits = rgb.convert("L"), rgb.quantize(50), rgb.convert("1")
    rgba, cmyk = rgb.copy(), rgb.convert("CMYK")
    rgba.putalpha(grey)
    deep = torch.from_numpy(np.random.default_rng(1).integers(0, 65536, (4, 29, 41)).astype(np.int32))
    array = deep.permute(1, 2, 0).numpy().astype(np.uint16)
    carried = {"exif": _exif(), "icc_profile": ICC}
    deep_carried = {"exif": _exif().removeprefix(b"Exif\0\0"), "icc_profile": ICC}
    return {
        "PNG": [
            *(_saved(image, "PNG") for image in (rgb, grey, bits, rgba, rgba.convert("LA"))),
            _saved(palette, "PNG", transparency=3),
            _saved(rgb, "PNG", **carried),
            _saved(Image.fromarray(array[..., 0]), "PNG"),
            *(encoding.encode_png(deep[:channels], deep_carried) for channels in (2, 3, 4)),
            _several("PNG"),
        ],
        "JPEG": [
            *(_saved(image, "JPEG", quality=80) for image in (rgb, grey, cmyk)),
            _saved(rgb, "JPEG", progressive=True, **carried),
            _saved(cmyk, "JPEG", icc_profile=ICC),
            _several("MPO"),
        ],
        "WEBP": [
            _saved(rgb, "WEBP"),
            _saved(rgba, "WEBP", **carried),
            _saved(rgba, "WEBP", lossless=True),
            _several("WEBP"),
        ],
        "TIFF": [
            *(_saved(image, "TIFF") for image in (rgb, grey, bits, rgba, palette, cmyk)),
            *(_saved(rgb, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
            _saved(bits, "TIFF", compression="group4"),
            _saved(rgb, "TIFF", **carried),
            _several("TIFF"),
            _saved(Image.fromarray(array[..., 0]), "TIFF"),
            *(encoding.encode_tiff(deep[:channels], deep_carried, []) for channels in (1, 3, 4)),
            _written(array[..., :3], photometric="rgb", tile=(16, 16), byteorder=">"),
            _written(np.asarray(rgb), photometric="rgb", tile=(16, 16), compression="zlib"),
            _written(np.asarray(rgb).transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
            _written(array[..., 0].astype(np.float32)),
            _written(np.asarray(rgb), photometric="rgb", bigtiff=True),
        ],
        "BMP": [_saved(image, "BMP") for image in (rgb, grey, bits, rgba, palette)],
        "GIF": [_saved(palette, "GIF"), _saved(palette, "GIF", transparency=2), _several("GIF")],
        "HEIC": [
            encoding.encode(torch.from_numpy(np.asarray(rgb)).permute(2, 0, 1), "HEIF", 80, deep_carried, []),
            encoding.encode(deep, "HEIF", 80, {}, []),
        ],
        "AVIF": [_saved(rgb, "AVIF", **carried), _saved(rgba, "AVIF")],
        "others": [
            *(_saved(image, "JPEG2000") for image in (rgb, grey, rgba)),
            *(_saved(rgb, kind) for kind in ("PPM", "QOI")),
            _saved(grey, "PPM"),
            b"P6 41 29 4095\n" + (array[..., :3] // 16).astype(">u2").tobytes(),
        ],
    }


def damaged(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Apply one to three damages; half of the damaged PNG files get correct checksums."""
    for _ in range(draw.randint(1, 3)):
        content = draw.choice(DAMAGES)(content, others, draw)
    return _with_checksums(content) if content.startswith(PNG_SIGNATURE) and draw.random() < 0.5 else content


def _flip_bits(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 20)) if changed else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _truncate(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _edit_number(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Overwrite a number that may be a size, an offset or a count, more often near the start."""
    at = draw.randrange(min(len(content), draw.choice((32, 64, 256, 10**9))) or 1)
    size, order = draw.choice("BHI"), draw.choice("<>")
    largest = 256 ** struct.calcsize(size) - 1
    value = draw.choice(INTERESTING) if draw.random() < 0.7 else draw.randrange(largest + 1)
    field = struct.pack(order + size, min(value, largest))
    return content[:at] + field + content[at + len(field) :]


def _splice(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    other = draw.choice(others)
    return content[: draw.randrange(len(content) + 1)] + other[draw.randrange(len(other)) :]


def _append(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    return content + draw.randbytes(draw.choice((1, 10, 1000)))


def _remove(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + content[at + draw.choice((1, 2, 4, 50)) :]


def _repeat(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + content[max(0, at - draw.choice((1, 12, 100))) : at] * draw.choice((1, 2, 50)) + content[at:]


def _randomise(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    at, length = draw.randrange(len(content) + 1), draw.choice((4, 30, 300))
    return content[:at] + draw.randbytes(length) + content[at + length :]


DAMAGES: tuple[Callable[[bytes, list[bytes], random.Random], bytes], ...] = (
    _flip_bits,
    _flip_bits,
    _truncate,
    _edit_number,
    _edit_number,
    _edit_number,
    _splice,
    _append,
    _remove,
    _repeat,
    _randomise,
)


def _with_checksums(content: bytes) -> bytes:
    """Recompute the checksum of each PNG chunk, so that decoders read the damaged data."""
    fixed, at = bytearray(content), len(PNG_SIGNATURE)
    while at + 12 <= len(fixed):
        end = at + 8 + int.from_bytes(fixed[at : at + 4], "big")
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(fixed[at + 4 : end]))
        at = end + 4
    return bytes(fixed)
