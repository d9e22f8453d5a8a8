"""Batches of random crops for training. What a batch holds depends on the seed and the step, on nothing else."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from restore_diff.data.config import DataConfig
from restore_diff.data.decoded_images import DecodedImages, read_sizes
from restore_diff.data.images import ImageError
from restore_diff.data.listing import DataError, first_names
from restore_diff.data.names import PairPath
from restore_diff.data.pairs import PairList, Renderer, different_sizes, require_degraded
from restore_diff.data.transforms import augment
from restore_diff.randomness import generator, mix
from restore_diff.tensors import Images

ENDLESS = 2**62
"""More micro batches than any run takes."""


class Batch(NamedTuple):
    """Crops for one forward pass of one process: a row of neighbours among all samples that the run ever draws."""

    clean: Images
    """float32 (B,3,h,w) in [0, 1]; `degraded` likewise."""
    degraded: Images
    positions: list[int]
    names: list[str]


class TrainingBatches:
    """An endless sequence of batches that can be entered at any step.

    Sample k = step * batch_size + j is a random crop of image permutation[(k // crops_per_image) % num_images], with a
    new permutation for each pass over the images. Order, crop, flips and weather are drawn for k, so they are the same
    for any number of workers, processes and micro batches, and after a resume.
    """

    def __init__(
        self,
        pairs: PairList,
        render: Renderer | None,
        config: DataConfig,
        batch_size: int,
        num_micro_batches: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ):
        """`batch_size` counts the samples of all processes. `rank` of `world` is this process.

        Reads every file's header and fills the cache. DataError for pairs of different sizes and for images smaller
        than the crop, ImageError for files that cannot be read, ValueError when the batch cannot be split evenly.
        """
        require_degraded(pairs, render)
        parts = num_micro_batches * world
        if batch_size % parts:
            nearest = f"{max(1, batch_size // parts) * parts} or {(batch_size // parts + 1) * parts}"
            split = f"{num_micro_batches} micro batches x {world} processes"
            raise ValueError(f"batch_size={batch_size} cannot be split evenly over {split}; nearest: {nearest}")
        sizes = read_sizes(path for pair in pairs.pairs for path in (pair.clean, pair.degraded) if path is not None)
        check_sizes(pairs, sizes, config.crop_size_px)
        images = DecodedImages(sizes, config.cache_mib)
        self.num_images, self.num_cached = len(sizes), images.num_cached
        """Files, degraded and clean, and how many of them stay decoded in memory."""
        self._samples = _Samples(pairs.pairs, images, render, config, seed)
        self._split = _Split(batch_size, num_micro_batches, batch_size // parts, rank, world)

    def iter_from(self, step: int) -> Iterator[Batch]:
        """The batches of this process from `step` on: `num_micro_batches` for each step, in order, without end."""
        config = self._samples.config
        loader = DataLoader(
            _MicroBatches(self._samples, self._split),
            batch_size=None,
            sampler=range(step * self._split.num_micro_batches, ENDLESS),
            num_workers=config.num_workers,
            prefetch_factor=4 if config.num_workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_process_group,
            generator=generator(self._samples.seed, "workers"),  # else one number is drawn from the global generator
        )
        for batch in loader:
            if isinstance(batch, ImageError):
                raise batch
            yield batch


def check_sizes(pairs: PairList, sizes: Mapping[Path, tuple[int, int]], crop_size_px: int) -> None:
    """DataError that names the first pairs whose (height, width) differ, or are smaller than the crop."""
    different, small = [], []
    for pair in pairs.pairs:
        height, width = sizes[pair.clean]
        if pair.degraded is not None and sizes[pair.degraded] != (height, width):
            different.append(different_sizes(pair, sizes[pair.degraded], (height, width)))
        elif min(height, width) < crop_size_px:
            small.append(f"{pair.clean} is {width}x{height}")
    if different:
        raise DataError(f"{pairs.name}: {len(different)} pairs of different sizes: {first_names(different)}")
    if small:
        rule = f"{len(small)} images are smaller than data.crop_size_px={crop_size_px}"
        raise DataError(f"{pairs.name}: {rule}: {first_names(small)}")


class _Split(NamedTuple):
    """Which samples of a step's batch go into a micro batch of this process."""

    batch_size: int
    num_micro_batches: int
    micro_batch_size: int
    rank: int
    world: int

    def positions(self, index: int) -> list[int]:
        step, micro = divmod(index, self.num_micro_batches)
        first = step * self.batch_size + (micro * self.world + self.rank) * self.micro_batch_size
        return list(range(first, first + self.micro_batch_size))


@dataclass(frozen=True)
class _Samples:
    """Sample k for any k."""

    pairs: tuple[PairPath, ...]
    images: DecodedImages
    render: Renderer | None
    config: DataConfig
    seed: int

    def batch(self, positions: list[int]) -> Batch:
        """The samples at these positions of the run; neighbours that share an image read it once."""
        crops: list[list[Tensor]] = []  # of each sample: clean, and degraded if there is a file
        names: list[str] = []
        for slot, group in groupby(positions, lambda position: position // self.config.crops_per_image):
            pair = self._pair(slot)
            images = [self.images[path] for path in (pair.clean, pair.degraded) if path is not None]
            for position in group:
                draw = generator(self.seed, "augment", position)
                crops.append(augment(images, self.config.crop_size_px, self.config.augmentation, draw))
                names.append(pair.name)
        clean = torch.stack([crop[0] for crop in crops]).float() / 255
        degraded = torch.stack([crop[-1] for crop in crops]).float() / 255
        rendered = [row for row, crop in enumerate(crops) if len(crop) == 1]
        if rendered:
            assert self.render is not None
            seeds = [mix(self.seed, "weather", positions[row]) for row in rendered]
            degraded[rendered] = self.render(clean[rendered], seeds)
        return Batch(clean, degraded, positions, names)

    def _pair(self, slot: int) -> PairPath:
        epoch, place = divmod(slot, len(self.pairs))
        return self.pairs[_permutation(len(self.pairs), self.seed, epoch)[place]]


class _MicroBatches(Dataset[Batch | ImageError]):
    """Micro batch number `index` of the run."""

    def __init__(self, samples: _Samples, split: _Split):
        self.samples = samples
        self.split = split

    def __getitem__(self, index: int) -> Batch | ImageError:
        try:
            return self.samples.batch(self.split.positions(index))
        except ImageError as error:
            return error  # raised in a worker, it would arrive with a traceback as its message


@lru_cache(maxsize=4)
def _permutation(num_pairs: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(num_pairs, generator=generator(seed, "order", epoch)).tolist()


def _leave_process_group(worker: int) -> None:
    """Ctrl-C and SIGTERM to the group reach the main process alone, which then ends the step and its workers."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
