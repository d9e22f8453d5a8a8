"""A predictor for images of any size from one that is good at tiles, by blending overlapping tiles."""

import math
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from restore_diff.diffusion.prediction import Predictor
from restore_diff.restoration.config import TilingConfig
from restore_diff.tensors import Images, Timesteps


class TiledPredictor:
    """Wraps a predictor and keeps its signature, so that every sampler works on images larger than the network's.

    What is blended is the prediction, at every step, as in Özdenizci & Legenstein (2023), alg. 2: epsilon, clean image
    and velocity are affine in each other at a given x_t, so it does not matter which one is averaged. Neighbours fade
    into each other along the overlap (squared sine, a Hann window's flank); nothing fades at the image's own border.
    """

    def __init__(self, predictor: Predictor, config: TilingConfig, size_multiple: int):
        """`size_multiple`: of the sizes that the predictor takes.

        Raises ValueError for a tile that is no such multiple, or not larger than its overlap.
        """
        tile, overlap = config.tile_size_px, config.tile_overlap_px
        if overlap >= tile:
            raise ValueError(f"tile_overlap_px={overlap} must be less than tile_size_px={tile}")
        if tile % size_multiple:
            raise ValueError(f"tile_size_px={tile} must be a multiple of {size_multiple}, which the network needs")
        self.predictor = predictor
        self.config = config

    def __call__(self, x_t: Images, t: Timesteps, degraded: Images | None) -> Images:
        """The blended prediction, float32, in x_t's shape. Along a side shorter than a tile, tiles are that short."""
        rows, columns = (self._cuts(length, x_t.device) for length in x_t.shape[-2:])
        per_image = len(rows.starts) * len(columns.starts)
        tiles = _cut(x_t, rows, columns)
        tiles_degraded = None if degraded is None else _cut(degraded, rows, columns)
        tiles_t = t.repeat_interleave(per_image)

        outputs = []
        for first in range(0, len(tiles), self.config.tiles_per_batch):
            batch = slice(first, first + self.config.tiles_per_batch)
            condition = None if tiles_degraded is None else tiles_degraded[batch]
            outputs.append(self.predictor(tiles[batch], tiles_t[batch], condition).float())
        return _blend(torch.cat(outputs), rows, columns, x_t.shape[-2:])

    def _cuts(self, length: int, device: torch.device) -> "Cuts":
        return cuts(length, self.config.tile_size_px, self.config.tile_overlap_px, device)


class Cuts(NamedTuple):
    """How one axis is cut into tiles of equal size."""

    starts: tuple[int, ...]
    """First position of each tile, evenly spaced; the last tile ends where the axis ends."""
    weights: Tensor
    """(num_tiles, tile) float32, > 0. At each position of the axis the weights of the tiles there sum to 1."""


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # What is kept must also serve a caller outside inference mode.
def cuts(length: int, tile: int, overlap: int, device: torch.device) -> Cuts:
    """Cut an axis of `length` into tiles that overlap by at least `overlap`; one shorter than a tile is one tile."""
    tile = min(tile, length)
    num_gaps = math.ceil((length - tile) / (tile - overlap)) if length > tile else 0
    starts = tuple(gap * (length - tile) // max(num_gaps, 1) for gap in range(num_gaps + 1))

    windows = torch.ones(len(starts), tile, dtype=torch.float64)
    for left, right in pairwise(range(len(starts))):
        shared = starts[left] + tile - starts[right]
        rising = torch.sin((torch.arange(shared, dtype=torch.float64) + 0.5) / shared * (math.pi / 2)) ** 2
        windows[right, :shared] *= rising
        windows[left, tile - shared :] *= rising.flip(0)
    total = torch.zeros(length, dtype=torch.float64)
    for start, window in zip(starts, windows, strict=True):
        total[start : start + tile] += window
    weights = torch.stack([w / total[s : s + tile] for s, w in zip(starts, windows, strict=True)])
    return Cuts(starts, weights.to(device, torch.float32))


def _cut(images: Images, rows: Cuts, columns: Cuts) -> Images:
    """All tiles of the first image, row by row, then those of the next: (batch * rows * columns, channels, h, w)."""
    height, width = rows.weights.shape[1], columns.weights.shape[1]
    strips = torch.stack([images[..., x : x + width] for x in columns.starts], dim=1)
    tiles = torch.stack([strips[..., y : y + height, :] for y in rows.starts], dim=1)
    return rearrange(tiles, "b rows columns c h w -> (b rows columns) c h w")


def _blend(tiles: Images, rows: Cuts, columns: Cuts, size: torch.Size) -> Images:
    """The weighted sum of the tiles where they lie: in one order, so that it gives the same bits each time."""
    grid = {"rows": len(rows.starts), "columns": len(columns.starts)}
    tiles = rearrange(tiles, "(b rows columns) c h w -> columns b rows c h w", **grid)
    strips = tiles.new_zeros(*tiles.shape[1:-1], size[1])  # (b, rows, c, h, width)
    for start, tile, weight in zip(columns.starts, tiles, columns.weights, strict=True):
        strips[..., start : start + len(weight)].addcmul_(tile, weight)
    blended = tiles.new_zeros(strips.shape[0], strips.shape[2], *size)
    for start, strip, weight in zip(rows.starts, strips.unbind(1), rows.weights, strict=True):
        blended[..., start : start + len(weight), :].addcmul_(strip, weight[:, None])
    return blended
