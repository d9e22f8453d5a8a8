"""Decoded images in memory, as far as they fit, shared by all processes that read them."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from restore_diff.data.decoding import read_size
from restore_diff.data.endings import seems_cut_off
from restore_diff.data.images import ImageError, read_rgb_uint8

MIB = 2**20
NUM_THREADS = min(8, os.cpu_count() or 1)


class Scan(NamedTuple):
    """What is known of files before they are all decoded."""

    sizes: dict[Path, tuple[int, int]]
    """(height, width) of those whose header can be read and that do not seem cut off."""
    damaged: dict[Path, ImageError]
    """The others."""


class DecodedImages:
    """uint8 (3,H,W) by path. The first images that fit into `cache_mib` are decoded at once, the others at each read.

    The memory is one tensor, filled before worker processes start: forked workers see the same pages, and spawned ones
    get it as one piece of shared memory.
    """

    def __init__(self, scan: Scan, cache_mib: int):
        self._sizes = scan.sizes
        self.damaged = dict(scan.damaged)
        """Those of the scan, and what could not be decoded into the cache."""
        self._offsets: dict[Path, int] = {}
        end = 0
        for path, (height, width) in scan.sizes.items():
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
        if path in self.damaged:
            raise self.damaged[path]
        return self._slot(path) if path in self._offsets else read_rgb_uint8(path)

    def _fill(self, path: Path) -> None:
        try:
            self._slot(path).copy_(read_rgb_uint8(path))
        except ImageError as error:
            self.damaged[path] = error

    def _slot(self, path: Path) -> Tensor:
        height, width = self._sizes[path]
        return self._memory[self._offsets[path] :][: 3 * height * width].view(3, height, width)


def scan_files(paths: Iterable[Path], is_suspect: Callable[[Path], bool] = seems_cut_off) -> Scan:
    """Read the header of each file, and decode the suspects among them, to know."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = dict(zip(distinct, pool.map(lambda path: _examine(path, is_suspect), distinct), strict=True))
    sizes = {path: size for path, size in found.items() if not isinstance(size, ImageError)}
    return Scan(sizes, {path: error for path, error in found.items() if isinstance(error, ImageError)})


def read_sizes(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """(height, width) of each file; ImageError that names the first damaged file and says how many more there are."""
    scan = scan_files(paths)
    refuse_damaged(scan.damaged)
    return scan.sizes


def refuse_damaged(damaged: dict[Path, ImageError]) -> None:
    """ImageError that tells of the first of these files and counts the others, unless there is none."""
    if damaged:
        first = str(next(iter(damaged.values())))
        others = f"; {len(damaged) - 1} more files cannot be read" if len(damaged) > 1 else ""
        raise ImageError(first + others)


def _examine(path: Path, is_suspect: Callable[[Path], bool]) -> tuple[int, int] | ImageError:
    try:
        size = read_size(path)
        if is_suspect(path):
            read_rgb_uint8(path)
        return size
    except ImageError as error:
        return error
