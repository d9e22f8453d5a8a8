"""A predictor for images of any size from one that is good at tiles, by blending overlapping tiles."""

import math

import torch
from einops import rearrange

from restore_diff.diffusion.prediction import Predictor
from restore_diff.restoration.config import TilingConfig
from restore_diff.restoration.grid import Cuts, cuts_of
from restore_diff.tensors import Images, Timesteps

BATCHES_AT_ONCE = 4
"""Batches of tiles cut out together: what bounds the memory beside the image itself."""

SHIFTS = (0.7548776662466927, 0.5698402909980532)
"""Steps of the sequence R2, which fills a square evenly (Roberts, 2018): shifts of the rows and of the columns."""


class TiledPredictor:
    """Wraps a predictor and keeps its signature, so that every sampler works on images larger than the network's.

    What is blended is the prediction, at every step, as in Oezdenizci and Legenstein (2023), alg. 2: epsilon, clean
    image and velocity are affine in each other at a given x_t, so it does not matter which one is averaged.

    One object serves one restoration: on a shifted grid, call k of it has the tiles of step k.
    """

    def __init__(self, predictor: Predictor, config: TilingConfig, size_multiple: int):
        """`size_multiple`: of the sizes that the predictor takes.

        Raises ValueError for a tile that is no such multiple, or not larger than its overlap.
        """
        tile, overlap = config.tile_size_px, config.tile_overlap_px
        if overlap >= tile and config.grid == "overlapping":
            raise ValueError(f"tile_overlap_px={overlap} must be less than tile_size_px={tile}")
        if tile % size_multiple:
            raise ValueError(f"tile_size_px={tile} must be a multiple of {size_multiple}, which the network needs")
        self.predictor = predictor
        self.config = config
        self.size_multiple = size_multiple
        self._num_calls = 0

    def __call__(self, x_t: Images, t: Timesteps, degraded: Images | None) -> Images:
        """The blended prediction, float32, in x_t's shape. Along a side shorter than a tile, tiles are that short."""
        rows, columns = self._cuts(x_t)
        self._num_calls += 1
        blended = torch.zeros_like(x_t, dtype=torch.float32)
        tiles_per_row = len(x_t) * len(columns.starts)
        num_rows = max(1, BATCHES_AT_ONCE * self.config.tiles_per_batch // tiles_per_row)
        for first in range(0, len(rows.starts), num_rows):
            band = Cuts(rows.starts[first : first + num_rows], rows.weights[first : first + num_rows])
            tiles = _cut(x_t, band, columns)
            tiles_degraded = None if degraded is None else _cut(degraded, band, columns)
            outputs = self._predict(tiles, t.repeat_interleave(len(tiles) // len(t)), tiles_degraded)
            _add(blended, outputs, band, columns)
        return blended

    def _predict(self, tiles: Images, t: Timesteps, degraded: Images | None) -> Images:
        """The predictor's outputs in batches of one shape, so that a compiled one is compiled once."""
        num_batches = math.ceil(len(tiles) / self.config.tiles_per_batch)
        size = math.ceil(len(tiles) / num_batches)
        outputs = []
        for first in range(0, len(tiles), size):
            condition = None if degraded is None else _batch(degraded, first, size)
            output = self.predictor(_batch(tiles, first, size), _batch(t, first, size), condition)
            outputs.append(output.float())
        return torch.cat(outputs)[: len(tiles)]

    def _cuts(self, x_t: Images) -> list[Cuts]:
        """Of the rows and of the columns."""
        shifts = [math.modf(self._num_calls * step)[0] for step in SHIFTS]
        return [
            cuts_of(length, self.config, shift, x_t.device, self.size_multiple)
            for length, shift in zip(x_t.shape[-2:], shifts, strict=True)
        ]


def _batch(values: torch.Tensor, first: int, size: int) -> torch.Tensor:
    """`size` rows from `first` on; where they run out, the first ones again."""
    rows = values[first : first + size]
    return rows if len(rows) == size else torch.cat([rows, values[: size - len(rows)]])


def _cut(images: Images, rows: Cuts, columns: Cuts) -> Images:
    """All tiles of the first image, row by row, then those of the next: (batch * rows * columns, channels, h, w)."""
    height, width = rows.weights.shape[1], columns.weights.shape[1]
    strips = torch.stack([images[..., y : y + height, :] for y in rows.starts], dim=1)
    tiles = torch.stack([strips[..., x : x + width] for x in columns.starts], dim=2)
    return rearrange(tiles, "b rows columns c h w -> (b rows columns) c h w")


def _add(blended: Images, tiles: Images, rows: Cuts, columns: Cuts) -> None:
    """Add the weighted tiles where they lie: in one order, so that it gives the same bits each time."""
    grid = {"rows": len(rows.starts), "columns": len(columns.starts)}
    tiles = rearrange(tiles, "(b rows columns) c h w -> columns b rows c h w", **grid)
    strips = tiles.new_zeros(*tiles.shape[1:-1], blended.shape[-1])  # (b, rows, c, h, width)
    for start, tile, weight in zip(columns.starts, tiles, columns.weights, strict=True):
        strips[..., start : start + len(weight)].addcmul_(tile, weight)
    for start, strip, weight in zip(rows.starts, strips.unbind(1), rows.weights, strict=True):
        blended[..., start : start + len(weight), :].addcmul_(strip, weight[:, None])
