"""The noise that an image is restored from: it belongs to the seed, the image's name and the pixel."""

from collections.abc import Sequence

import torch

from restore_diff.randomness import generator
from restore_diff.tensors import Images

ROWS_AT_ONCE = 4096
"""Rows drawn by one generator: a part of a large image has its noise without that of the whole."""


def noise_of(
    shape: Sequence[int], names: Sequence[str], seed: int, draw: int, rows: tuple[int, int] | None = None
) -> Images:
    """Standard normal noise, float32 on the CPU, for images of `shape` (channels, height, width), one per name.

    `rows`, (first, end), are those wanted; None: all.
    """
    channels, height, width = shape
    first, end = rows or (0, height)
    noise = torch.empty(len(names), channels, end - first, width)
    for row, name in enumerate(names):
        for start in range(first - first % ROWS_AT_ONCE, end, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, height)
            address = (name, draw, start) if start else (name, draw)
            block = torch.randn(channels, stop - start, width, generator=generator(seed, "noise", *address))
            upper, lower = max(start, first), min(stop, end)
            noise[row, :, upper - first : lower - first] = block[:, upper - start : lower - start]
    return noise
