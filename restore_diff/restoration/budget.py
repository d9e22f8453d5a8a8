"""Fitting the work to the memory: how many tiles at a time, how much of an image, and what to try when it fails."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from restore_diff.diffusion.prediction import Predictor
from restore_diff.memory import free_bytes
from restore_diff.restoration.config import TilingConfig
from restore_diff.restoration.grid import Cuts, overlapping_cuts

LEAST_TILE_PX = 64
"""Smaller tiles are not tried: a network sees too little in them."""

CPU_PIXELS_PER_BATCH = 256**2
"""On a CPU larger batches only leave the caches."""

MOST_TILES = 256
SHARE_OF_FREE_MEMORY = 0.6

MOST_PIXELS = 16_000_000
"""Of an image that is restored in one piece. A sampler holds some ten float32 images of this size: 2 GB."""

PIXELS_PER_BAND = 8_000_000
BAND_OVERLAP_PX = 128


def tiles_per_batch(predictor: Predictor, device: torch.device, channels: int, height: int, width: int) -> int:
    """How many tiles of this size to give to the predictor at once; on a GPU, one is tried to see what it needs."""
    if device.type != "cuda":
        return max(1, CPU_PIXELS_PER_BATCH // (height * width))
    tile = torch.zeros(1, channels, height, width, device=device)
    t = torch.zeros(1, dtype=torch.int64, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    predictor(tile, t, tile)
    needed = max(torch.cuda.max_memory_allocated(device) - before, 1)
    available = (free_bytes(device) or 0) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(MOST_TILES, max(1, int(SHARE_OF_FREE_MEMORY * available) // needed))


def bands(height: int, width: int) -> Cuts:
    """The parts, full rows from top to bottom, in which an image is restored: the whole, unless it is very large.

    Parts are restored each for itself, from the noise that belongs to their pixels, and fade into each other.
    """
    if height * width <= MOST_PIXELS:
        return overlapping_cuts(height, height, 0, "hann", torch.device("cpu"))
    rows = max(PIXELS_PER_BAND // width, 2 * BAND_OVERLAP_PX)
    return overlapping_cuts(height, rows, BAND_OVERLAP_PX, "hann", torch.device("cpu"))


def halved(tiling: TilingConfig, size: Sequence[int], multiple: int) -> TilingConfig | None:
    """The same with tiles of half the size, of the whole image where there were none; None where that is too small."""
    tile = min(tiling.tile_size_px or max(size), max(size)) // 2
    tile -= tile % multiple
    if tile < LEAST_TILE_PX:
        return None
    return replace(tiling, tile_size_px=tile, tile_overlap_px=min(tiling.tile_overlap_px, tile // 4), tiles_per_batch=1)
