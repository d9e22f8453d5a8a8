"""The noise that an image is restored from: it belongs to the seed, the image's name and the pixel."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from restore_diff.randomness import generator
from restore_diff.tensors import Images

ROWS_AT_ONCE = 1024
"""Rows drawn by one generator: a part of a large image has its noise without that of the whole."""


class Noise(NamedTuple):
    """The noise of some rows of images of `shape` (channels, height, width), one per name."""

    shape: Sequence[int]
    names: Sequence[str]
    seed: int
    rows: tuple[int, int]
    """The first, and the one after the last."""

    def __call__(self, draw: int) -> Images:
        """Draw k: standard normal, float32 on the CPU, (len(names), channels, number of rows, width)."""
        channels, height, width = self.shape
        first, end = self.rows
        noise = torch.empty(len(self.names), channels, end - first, width)
        for place, name in enumerate(self.names):
            for start in range(first - first % ROWS_AT_ONCE, end, ROWS_AT_ONCE):
                stop = min(start + ROWS_AT_ONCE, height)
                address = (name, draw, start) if start else (name, draw)
                random = generator(self.seed, "noise", *address)
                block = torch.randn(channels, stop - start, width, generator=random)
                upper, lower = max(start, first), min(stop, end)
                noise[place, :, upper - first : lower - first] = block[:, upper - start : lower - start]
        return noise
