"""Textures and strokes of rain and snow."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from restore_diff.data.images import ImageError, read_rgb_uint8, read_sizes
from restore_diff.data.names import DataError, list_images

# Which pixels a leaning stroke may touch: many strokes at once, each in the picture that it is painted on.


def pixels_in_reach(
    x: Tensor, y: Tensor, tilt: Tensor, half_height: Tensor, half_width: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """List each pixel in reach of each stroke: (index of the stroke, row, column), stroke by stroke, row by row.

    A stroke covers the rows within `half_height` of its middle (x, y), and of each row the columns within `half_width`
    of its axis, which leans by `tilt` (radians, less than a quarter turn; positive: the lower end to the right).
    """
    stroke, row = _ranges(y - half_height, y + half_height, height)
    x, y, slope, reach = spread(stroke, x, y, tilt.tan(), half_width)
    middle = x + (row - y) * slope
    line, column = _ranges(middle - reach, middle + reach, width)
    stroke, row = spread(line, stroke, row)
    return stroke, row, column


def spread(index: Tensor, *values: Tensor) -> list[Tensor]:
    """`value[index]` of each, much faster on a CPU."""
    return [value.index_select(0, index) for value in values]


def _ranges(first: Tensor, last: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Whole numbers from first[i] to last[i] that lie in 0 .. size - 1, all i one after another: (i, number)."""
    start = first.ceil().clamp(min=0).long()
    count = (last.floor().clamp(max=size - 1).long() - start + 1).clamp(min=0)
    index = torch.repeat_interleave(count)
    skipped = count.cumsum(0) - count
    return index, torch.arange(len(index), device=first.device) + (start - skipped).index_select(0, index)


# Pictures of light on black, such as rain streaks or snowflakes, from which pieces of any size are cut.

NUM_CACHED = 512
"""Pictures that a process keeps decoded."""

SEAM = 0.125
"""Share of a picture's sides over which one copy of it fades into the next."""


class TextureFolder:
    """The pictures below a folder. A picture's brightest point counts as 1, black as 0, whatever their colours.

    Holds paths alone, and so can be sent to worker processes; each process decodes a picture once.
    """

    def __init__(self, folder: str):
        """DataError where there is no folder or no image in it; ImageError for a file that is none."""
        self.paths = _list(Path(folder).expanduser())

    def crop(self, height: int, width: int, random: torch.Generator, scales: Sequence[float] = (1.0,)) -> Tensor:
        """Draw a picture, mirror it or not, and cut a piece out of it at a random place: float32 (1,H,W) in [0, 1].

        With several `scales` a piece for each, that many times as large as in the file, are added up to at most 1; they
        are of one picture, mirrored alike, so that what falls in it keeps its direction. A picture goes on beyond its
        border with its other side, faded over, so a piece may be larger than it. ImageError for a damaged file.
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
    read_sizes(paths)  # what is no image is told now, not in the middle of a training
    return paths


@lru_cache(maxsize=NUM_CACHED)
def _read(path: Path) -> Tensor:
    """uint8 (1,H,W) with its maximum at 255, the last rows and columns fading into the first."""
    light = read_rgb_uint8(path).amax(0, keepdim=True).float()
    if not light.any():
        raise ImageError(f"{path}: all black, it holds no texture; remove it")
    for dim in (1, 2):
        light = _faded_over(light, dim)
    return (light * (255 / light.max())).round().to(torch.uint8)


def _faded_over(light: Tensor, dim: int) -> Tensor:
    """Cut the end off and lay it over the beginning, so that copies in a row have no edge; mean light is kept."""
    size = light.shape[dim]
    seam = int(size * SEAM)
    body, end = light.split([size - seam, seam], dim)
    start, rest = body.split([seam, size - 2 * seam], dim)
    ramp = (torch.arange(seam) + 0.5).div(seam).view(-1, *[1] * (light.ndim - 1 - dim)) if seam else 1.0
    return torch.cat([start * ramp + end * (1 - ramp), rest], dim)
