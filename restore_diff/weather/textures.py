"""Textures of rain and snow."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from restore_diff.data.images import ImageError, read_rgb_uint8, read_sizes
from restore_diff.data.names import DataError, list_images

NUM_CACHED = 512
"""Number of decoded textures that a process caches."""

SEAM = 0.125
"""Share of the sides of a texture over which one copy fades into the next."""

SCALES = (0.7, 1.4)
"""Minimum and maximum scale of a crop, relative to its file."""


def draw_scale(random: torch.Generator) -> float:
    """Draw a scale of a crop, uniform in its logarithm."""
    return SCALES[0] * (SCALES[1] / SCALES[0]) ** float(torch.rand((), generator=random))


class TextureFolder:
    """Textures below a folder: light on black, such as streaks or flakes, scaled to a maximum of 1 per texture.

    Holds only paths, so it can be sent to worker processes; each process decodes a texture once.
    """

    def __init__(self, folder: str):
        """Raise DataError for a missing or empty folder, ImageError for a file that is not an image."""
        self.paths = _list(Path(folder).expanduser())

    def crop(self, height: int, width: int, random: torch.Generator, scales: Sequence[float] = (1.0,)) -> Tensor:
        """Draw a texture, mirror half of them, and cut a crop at a random position: float32 (1,H,W) in [0, 1].

        For several `scales`, crops of the same texture, enlarged by each scale and mirrored alike, are added and
        clipped at 1. Textures repeat with faded seams, so a crop may be larger than its file. Raises ImageError for a
        damaged or black file.
        """
        choice, mirrored = torch.rand(2, generator=random).tolist()
        picture = _read(self.paths[int(choice * len(self.paths))])
        picture = picture.flip(-1) if mirrored < 0.5 else picture
        light = torch.zeros(1, height, width)
        for scale in scales:
            light += _piece(picture, height, width, scale, torch.rand(2, generator=random))
        return light.clamp_(max=1)


def _piece(picture: Tensor, height: int, width: int, scale: float, corner: Tensor) -> Tensor:
    sides = zip((height, width), picture.shape[-2:], corner.tolist(), strict=True)
    rows, columns = ((int(c * side) + torch.arange(max(1, round(size / scale)))) % side for size, side, c in sides)
    piece = picture[:, rows[:, None], columns].float()[None] / 255
    if piece.shape[-2:] != (height, width):
        piece = F.interpolate(piece, (height, width), mode="bilinear", antialias=True)
    return piece[0]


@lru_cache(maxsize=16)
def _list(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of textures")
    paths = tuple(list_images(folder).values())
    read_sizes(paths)  # fail before the training starts
    return paths


@lru_cache(maxsize=NUM_CACHED)
def _read(path: Path) -> Tensor:
    """Read a texture as uint8 (1,H,W) with maximum 255; its last rows and columns fade into the first."""
    light = read_rgb_uint8(path).amax(0, keepdim=True).float()
    if not light.any():
        raise ImageError(f"{path}: all black, so it holds no texture; remove it")
    for dim in (1, 2):
        light = _faded_over(light, dim)
    return (light * (255 / light.max())).round().to(torch.uint8)


def _faded_over(light: Tensor, dim: int) -> Tensor:
    """Blend the end over the start, so that repeated copies have no edge; the mean is kept."""
    size = light.shape[dim]
    seam = int(size * SEAM)
    body, end = light.split([size - seam, seam], dim)
    start, rest = body.split([seam, size - 2 * seam], dim)
    ramp = (torch.arange(seam) + 0.5).div(seam).view(-1, *[1] * (light.ndim - 1 - dim)) if seam else 1.0
    return torch.cat([start * ramp + end * (1 - ramp), rest], dim)
