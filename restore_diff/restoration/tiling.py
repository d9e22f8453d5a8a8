"""Padding, and tiles: overlapping or shifted cuts of an image, and a predictor that blends over them."""

import math
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from restore_diff.diffusion.prediction import Predictor
from restore_diff.settings import TilingConfig
from restore_diff.tensors import Images, Timesteps

Window = Literal["hann", "box"]

MIN_SHRUNK_TILE_PX = 256
"""Networks are trained on crops up to this size, so larger tiles may be shrunk down to it without loss."""

BATCHES_AT_ONCE = 4
"""Batches of tiles cut out together: bounds the memory beside the image itself."""

SHIFTS = (0.7548776662466927, 0.5698402909980532)
"""Steps of the sequence R2, which fills a square evenly (Roberts, 2018): shifts of the rows and of the columns."""


def round_up(length: int, multiple: int) -> int:
    """The smallest multiple that is at least `length`."""
    return -(-length // multiple) * multiple


def pad_to(images: Images, height: int, width: int) -> Images:
    """Pad at the bottom and right by reflection without repeating the edge, as often as needed.

    A side of 1 px is repeated. Raises ValueError if the images are larger already.
    """
    if height < images.shape[-2] or width < images.shape[-1]:
        raise ValueError(f"cannot pad {images.shape[-2]} x {images.shape[-1]} to the smaller {height} x {width}")
    rows = _mirrored(images.shape[-2], height, images.device)
    columns = _mirrored(images.shape[-1], width, images.device)
    return images.index_select(-2, rows).index_select(-1, columns)


def crop_to(images: Images, height: int, width: int) -> Images:
    """Undo `pad_to`."""
    return images[..., :height, :width]


def _mirrored(old: int, new: int, device: torch.device) -> Tensor:
    """(new,) int64: 0 1 .. old-1 old-2 .. 1 0 1 .."""
    period = max(2 * (old - 1), 1)
    phase = torch.arange(new, device=device) % period
    return torch.minimum(phase, period - phase) if old > 1 else phase


class Cuts(NamedTuple):
    """Tiles of equal size along one axis."""

    starts: tuple[int, ...]
    """First position of each tile; the last tile ends where the axis ends."""
    weights: Tensor
    """(num_tiles, tile) float32, >= 0. At each position of the axis the weights of the tiles there sum to 1."""


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # Cached tensors must also serve callers outside inference mode.
def overlapping_cuts(
    length: int, tile: int, overlap: int, window: Window, device: torch.device, multiple: int = 1
) -> Cuts:
    """Evenly spaced tiles that overlap by at least `overlap`; an axis shorter than a tile is one tile.

    "hann": neighbours fade into each other along their overlap (squared sine, the flank of a Hann window), without
    fading at the image border. "box": equal weights at each position, as in Oezdenizci and Legenstein (2023).

    Large "hann" tiles shrink in steps of `multiple`, without adding tiles.
    """
    tile = min(tile, length)
    num_gaps = math.ceil((length - tile) / (tile - overlap)) if length > tile else 0
    if num_gaps and window == "hann":
        needed = max(math.ceil((length + num_gaps * overlap) / (num_gaps + 1)), MIN_SHRUNK_TILE_PX)
        tile = min(tile, round_up(needed, multiple))
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
    """Adjacent tiles without overlap, with borders moved by `shift` in [0, 1): a new shift per step hides the borders.

    One extra tile gives the borders room to move. The first and the last tile are pushed back inside the image, and
    pixels that they then share with a neighbour belong to one of the two only.
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
    """Cuts of one axis by the settings."""
    if config.grid == "shifted":
        return shifted_cuts(length, config.tile_size_px, shift, device)
    return overlapping_cuts(length, config.tile_size_px, config.tile_overlap_px, config.window, device, multiple)


def network_pixels(height: int, width: int, config: TilingConfig) -> float:
    """Pixels computed by the network in one call over an image, per pixel of the image."""
    if not config.tile_size_px:
        return 1.0
    axes = (cuts_of(side, config, 0.0, torch.device("cpu")) for side in (height, width))
    return math.prod(cuts.weights.numel() for cuts in axes) / (height * width)


class TiledPredictor:
    """Predictor for large images that blends the predictions of tiles, with the signature of the wrapped one.

    Predictions are blended at every step, as in Oezdenizci and Legenstein (2023), alg. 2. Epsilon, clean image and
    velocity are affine in each other at a given x_t, so it does not matter which one is averaged.

    Use one object per restoration: on a shifted grid, call k uses the tiles of step k.
    """

    def __init__(self, predictor: Predictor, config: TilingConfig, size_multiple: int):
        """Raises ValueError for a tile that is no multiple of `size_multiple`, or not larger than its overlap."""
        tile, overlap = config.tile_size_px, config.tile_overlap_px
        if overlap >= tile and config.grid == "overlapping":
            raise ValueError(f"tile_overlap_px={overlap} must be less than tile_size_px={tile}")
        if tile % size_multiple:
            raise ValueError(f"tile_size_px={tile} must be a multiple of {size_multiple} for this network")
        self.predictor = predictor
        self.config = config
        self.size_multiple = size_multiple
        self._num_calls = 0

    def __call__(self, x_t: Images, t: Timesteps, degraded: Images | None, **condition: Any) -> Images:
        """The blended prediction, float32, in x_t's shape. Tiles are as short as a side that is shorter than a tile.

        `condition`: keywords for the wrapped predictor, the same for all tiles.
        """
        predictor = partial(self.predictor, **condition)
        rows, columns = self._cuts(x_t)
        self._num_calls += 1
        blended = torch.zeros_like(x_t, dtype=torch.float32)
        tiles_per_row = len(x_t) * len(columns.starts)
        num_rows = max(1, BATCHES_AT_ONCE * self.config.tiles_per_batch // tiles_per_row)
        for first in range(0, len(rows.starts), num_rows):
            band = Cuts(rows.starts[first : first + num_rows], rows.weights[first : first + num_rows])
            tiles = _cut(x_t, band, columns)
            tiles_degraded = None if degraded is None else _cut(degraded, band, columns)
            outputs = self._predict(predictor, tiles, t.repeat_interleave(len(tiles) // len(t)), tiles_degraded)
            _add(blended, outputs, band, columns)
        return blended

    def _predict(self, predictor: Predictor, tiles: Images, t: Timesteps, degraded: Images | None) -> Images:
        """Outputs in batches of one shape, so that a compiled predictor is compiled once."""
        num_batches = math.ceil(len(tiles) / self.config.tiles_per_batch)
        size = math.ceil(len(tiles) / num_batches)
        outputs = []
        for first in range(0, len(tiles), size):
            condition = None if degraded is None else _batch(degraded, first, size)
            output = predictor(_batch(tiles, first, size), _batch(t, first, size), condition)
            outputs.append(output.float())
        return torch.cat(outputs)[: len(tiles)]

    def _cuts(self, x_t: Images) -> list[Cuts]:
        """Cuts of the rows and of the columns."""
        shifts = [math.modf(self._num_calls * step)[0] for step in SHIFTS]
        return [
            cuts_of(length, self.config, shift, x_t.device, self.size_multiple)
            for length, shift in zip(x_t.shape[-2:], shifts, strict=True)
        ]


def _batch(values: torch.Tensor, first: int, size: int) -> torch.Tensor:
    """`size` rows from `first` on, filled up with the first rows at the end."""
    rows = values[first : first + size]
    return rows if len(rows) == size else torch.cat([rows, values[: size - len(rows)]])


def _cut(images: Images, rows: Cuts, columns: Cuts) -> Images:
    """All tiles of the first image, row by row, then those of the next: (batch * rows * columns, channels, h, w)."""
    height, width = rows.weights.shape[1], columns.weights.shape[1]
    strips = torch.stack([images[..., y : y + height, :] for y in rows.starts], dim=1)
    tiles = torch.stack([strips[..., x : x + width] for x in columns.starts], dim=2)
    return rearrange(tiles, "b rows columns c h w -> (b rows columns) c h w")


def _add(blended: Images, tiles: Images, rows: Cuts, columns: Cuts) -> None:
    """Add the weighted tiles at their places, in a fixed order, so that the result is bit-equal each time."""
    grid = {"rows": len(rows.starts), "columns": len(columns.starts)}
    tiles = rearrange(tiles, "(b rows columns) c h w -> columns b rows c h w", **grid)
    strips = tiles.new_zeros(*tiles.shape[1:-1], blended.shape[-1])  # (b, rows, c, h, width)
    for start, tile, weight in zip(columns.starts, tiles, columns.weights, strict=True):
        strips[..., start : start + len(weight)].addcmul_(tile, weight)
    for start, strip, weight in zip(rows.starts, strips.unbind(1), rows.weights, strict=True):
        blended[..., start : start + len(weight), :].addcmul_(strip, weight[:, None])
