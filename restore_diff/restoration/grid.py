"""How an image is cut into tiles, axis by axis, and what each tile weighs where several lie over one another."""

import math
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from restore_diff.restoration.config import TilingConfig

Window = Literal["hann", "box"]

LEAST_SHRUNK_PX = 256
"""Networks are trained on crops up to this size, so the size of a tile above it means nothing to them."""


class Cuts(NamedTuple):
    """How one axis is cut into tiles of equal size."""

    starts: tuple[int, ...]
    """First position of each tile; the last tile ends where the axis ends."""
    weights: Tensor
    """(num_tiles, tile) float32, >= 0. At each position of the axis the weights of the tiles there sum to 1."""


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # What is kept must also serve a caller outside inference mode.
def overlapping_cuts(
    length: int, tile: int, overlap: int, window: Window, device: torch.device, multiple: int = 1
) -> Cuts:
    """Tiles that overlap by at least `overlap`, evenly spaced; an axis shorter than a tile is one tile.

    "hann": neighbours fade into each other along their overlap (squared sine, a Hann window's flank), and nothing fades
    at the image's own border. "box": all tiles at a position count alike, as in Oezdenizci and Legenstein (2023).

    Large "hann" tiles are made as small, in steps of `multiple`, as their number allows.
    """
    tile = min(tile, length)
    num_gaps = math.ceil((length - tile) / (tile - overlap)) if length > tile else 0
    if num_gaps and window == "hann":
        needed = max(math.ceil((length + num_gaps * overlap) / (num_gaps + 1)), LEAST_SHRUNK_PX)
        tile = min(tile, math.ceil(needed / multiple) * multiple)
    starts = tuple(gap * (length - tile) // max(num_gaps, 1) for gap in range(num_gaps + 1))

    windows = torch.ones(len(starts), tile, dtype=torch.float64)
    if window == "hann":
        for left, right in pairwise(range(len(starts))):
            shared = starts[left] + tile - starts[right]
            rising = torch.sin((torch.arange(shared, dtype=torch.float64) + 0.5) / shared * (math.pi / 2)) ** 2
            windows[right, :shared] *= rising
            windows[left, tile - shared :] *= rising.flip(0)
    total = torch.zeros(length, dtype=torch.float64)
    for start, of_tile in zip(starts, windows, strict=True):
        total[start : start + tile] += of_tile
    weights = torch.stack([w / total[s : s + tile] for s, w in zip(starts, windows, strict=True)])
    return Cuts(starts, weights.to(device, torch.float32))


def shifted_cuts(length: int, tile: int, shift: float, device: torch.device) -> Cuts:
    """Tiles that meet without overlap, with borders that move with `shift`, in [0, 1): another at each step hides them.

    One tile more than would do for the length gives the borders room to move; the first and the last tile are pushed
    back inside the image, and what they then share with a neighbour counts for one of the two alone.
    """
    tile = min(tile, length)
    num_tiles = length // tile + 1 if length > tile else 1
    slack = num_tiles * tile - length
    offset = math.floor(shift * (slack + 1)) if num_tiles > 1 else 0
    borders = [0, *(place * tile - offset for place in range(1, num_tiles)), length]
    starts = tuple(min(max(place * tile - offset, 0), length - tile) for place in range(num_tiles))
    weights = torch.zeros(num_tiles, tile)
    for place, start in enumerate(starts):
        weights[place, borders[place] - start : borders[place + 1] - start] = 1
    return Cuts(starts, weights.to(device))


def cuts_of(length: int, config: TilingConfig, shift: float, device: torch.device, multiple: int = 1) -> Cuts:
    """The cuts of one axis that the settings ask for."""
    if config.grid == "shifted":
        return shifted_cuts(length, config.tile_size_px, shift, device)
    return overlapping_cuts(length, config.tile_size_px, config.tile_overlap_px, config.window, device, multiple)


def network_pixels(height: int, width: int, config: TilingConfig) -> float:
    """Pixels that the network computes in one call over an image, per pixel of the image."""
    if not config.tile_size_px:
        return 1.0
    axes = (cuts_of(side, config, 0.0, torch.device("cpu")) for side in (height, width))
    return math.prod(cuts.weights.numel() for cuts in axes) / (height * width)
