"""Helpers of the tests of image files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from restore_diff.data.decoding import decode
from restore_diff.data.images import ImageError, RasterImage, read_image, write_image

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, bits: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**bits, shape, dtype=f"uint{bits}")


def saved(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def rewritten(path: Path, suffix: str) -> tuple[RasterImage, list[str], Path]:
    """Read a file and write it again; return the image, what was lost, and the new file."""
    image, out = read_image(path), path.with_name(f"out{suffix}")
    return image, write_image(out, image.pixels, like=image), out


def exif_of(path: Path) -> Image.Exif:
    exif = Image.Exif()
    exif.load(decode(path).metadata.exif)
    return exif


def planes(path: Path) -> np.ndarray:
    """Decoded samples (H,W,C)."""
    return decode(path).samples.permute(1, 2, 0).numpy()


def refusal(path: Path, read=read_image) -> str:
    """Return the message, of one line that begins with the path."""
    with pytest.raises(ImageError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    return str(caught.value)
