"""Decoded images in memory, as far as they fit, shared by all processes that read them."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from restore_diff.data.decoding import read_size
from restore_diff.data.images import read_rgb_uint8

MIB = 2**20
NUM_THREADS = min(8, os.cpu_count() or 1)


class DecodedImages:
    """uint8 (3,H,W) by path. The first images that fit into `cache_mib` are decoded at once, the others at each read.

    The memory is one tensor, filled before worker processes start: forked workers see the same pages, and spawned ones
    get it as one piece of shared memory.
    """

    def __init__(self, sizes: Mapping[Path, tuple[int, int]], cache_mib: int):
        self._sizes = sizes
        self._offsets: dict[Path, int] = {}
        end = 0
        for path, (height, width) in sizes.items():
            if end + 3 * height * width <= cache_mib * MIB:
                self._offsets[path] = end
                end += 3 * height * width
        self._memory = torch.empty(end, dtype=torch.uint8)
        with ThreadPoolExecutor(NUM_THREADS) as pool:  # Pillow decodes outside the interpreter's lock
            list(pool.map(self._fill, self._offsets))

    @property
    def num_cached(self) -> int:
        return len(self._offsets)

    def __getitem__(self, path: Path) -> Tensor:
        """ImageError for a file that cannot be read. The tensor is shared: do not write into it."""
        return self._slot(path) if path in self._offsets else read_rgb_uint8(path)

    def _fill(self, path: Path) -> None:
        self._slot(path).copy_(read_rgb_uint8(path))

    def _slot(self, path: Path) -> Tensor:
        height, width = self._sizes[path]
        return self._memory[self._offsets[path] :][: 3 * height * width].view(3, height, width)


def read_sizes(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """(height, width) of each file, from its header; ImageError for the first that is no image."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return dict(zip(distinct, pool.map(read_size, distinct), strict=True))
