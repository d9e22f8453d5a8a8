"""Read 16 bits per sample where Pillow, which has no mode for them in colour, keeps 8."""

import sys
from collections.abc import Callable

import numpy as np
from PIL import Image

HIGH_BYTES = {"little": "16L", "big": "16B"}
"""By the order of the bytes in the file: how Pillow is told to keep the high ones. The other order keeps the low."""
TIFF_LAYOUTS = tuple(f"{colours};16{order}" for colours in ("RGB", "RGBA") for order in "LBN")
PLANAR_CONFIGURATION, SEPARATE = 284, 2


def can_be_read(image: Image.Image) -> bool:
    """Whether an opened 16-bit PNG or TIFF file in colour, or PNG in grey, is stored so that `read_deep` can read it.

    Not where the colours of a TIFF file lie apart from each other: Pillow chooses their layout itself.
    """
    if image.format == "TIFF":
        together = image.tag_v2.get(PLANAR_CONFIGURATION, 1) != SEPARATE  # type: ignore[attr-defined]
        return together and _layout(image).rpartition(";")[::2] in [
            (m, f"16{b}") for m in ("RGB", "RGBA") for b in "LBN"
        ]
    return image.format == "PNG" and "transparency" not in image.info


def read_deep(image: Image.Image, reopen: Callable[[], Image.Image]) -> np.ndarray:
    """int32 (H,W,C) in 0..65535 of an opened file, which is decoded twice: for the high bytes and for the low ones."""
    layout = _layout(image)
    if layout == "I;16B":  # grey, of which Pillow keeps all
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
    def told(args: str | tuple) -> str | tuple:
        return layout if isinstance(args, str) else (layout, *args[1:])

    image.tile = [tile._replace(args=told(tile.args)) for tile in image.tile]  # type: ignore[attr-defined]
    return np.atleast_3d(np.asarray(image).astype(np.int32))
