"""Batches of random crops for training. What a batch holds depends on the seed and the step, on nothing else."""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from restore_diff.data.checks import Sizes, files_of, require_crops, require_equal_sizes, without_small
from restore_diff.data.config import DataConfig
from restore_diff.data.decoded_images import DecodedImages, refuse_damaged, scan_files
from restore_diff.data.finding import PairList
from restore_diff.data.images import ImageError
from restore_diff.data.listing import first_names
from restore_diff.data.order import Order
from restore_diff.data.pairs import Renderer, require_degraded
from restore_diff.data.samples import Batch, Samples
from restore_diff.randomness import generator

log = logging.getLogger(__name__)

ENDLESS = 2**62
"""More micro batches than any run takes."""


class TrainingBatches:
    """An endless sequence of batches that can be entered at any step.

    Sample k = step * batch_size + j is a random crop of the pair at place k // crops_per_image of the `Order`. Order,
    crop, flips and weather are drawn for k, so they are the same for any number of workers, processes and micro
    batches, and after a resume. A damaged file changes no other place of the order.
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

        Reads every file's header and end, and fills the cache. DataError for pairs of different sizes and, unless the
        config treats them, for images smaller than the crop; ImageError, unless the config skips them, for files that
        cannot be read, now or when their turn comes; ValueError when the batch cannot be split evenly.
        """
        require_degraded(pairs, render)
        parts = num_micro_batches * world
        if batch_size % parts:
            nearest = f"{max(1, batch_size // parts) * parts} or {(batch_size // parts + 1) * parts}"
            split = f"{num_micro_batches} micro batches x {world} processes"
            raise ValueError(f"batch_size={batch_size} cannot be split evenly over {split}; nearest: {nearest}")
        scan = scan_files(files_of(pairs))
        if config.on_bad == "error":
            refuse_damaged(scan.damaged)
        croppable = _croppable(pairs, scan.sizes, config)
        images = DecodedImages(scan, config.cache_mib)
        if config.on_bad == "error" or images.damaged.keys() >= set(files_of(croppable)):
            refuse_damaged(images.damaged)
        self._told = {str(error) for error in images.damaged.values()}
        if rank == 0:
            _tell_at_start(pairs, croppable, sorted(self._told))
        self.num_images, self.num_cached = len(scan.sizes), images.num_cached
        """Files, degraded and clean, and how many of them stay decoded in memory."""
        self.order = Order(croppable, seed)
        """What is trained on, and when."""
        self._samples = Samples(self.order, images, render, config, seed)
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
            self._tell(batch.damaged)
            yield batch

    def _tell(self, damaged: Sequence[str]) -> None:
        """Warn of each damaged file once."""
        for problem in damaged:
            if problem not in self._told:
                self._told.add(problem)
                log.warning("skipped: %s", problem)


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


class _MicroBatches(Dataset[Batch | ImageError]):
    """Micro batch number `index` of the run."""

    def __init__(self, samples: Samples, split: _Split):
        self.samples = samples
        self.split = split

    def __getitem__(self, index: int) -> Batch | ImageError:
        try:
            return self.samples.batch(self.split.positions(index))
        except ImageError as error:
            return error  # raised in a worker, it would arrive with a traceback as its message


def _croppable(pairs: PairList, sizes: Sizes, config: DataConfig) -> PairList:
    """The pairs from which crops can be taken, small images treated as the config says. DataError."""
    require_equal_sizes(pairs, sizes)
    if config.on_small == "error":
        require_crops(pairs, sizes, config.crop_size_px)
    if config.on_small != "skip":
        return pairs
    return without_small(pairs, sizes, config.crop_size_px)


def _tell_at_start(pairs: PairList, croppable: PairList, damaged: Sequence[str]) -> None:
    if num_small := len(pairs.pairs) - len(croppable.pairs):
        log.warning("%s: %d of %d pairs are smaller than the crop, left out", pairs.name, num_small, len(pairs.pairs))
    if damaged:
        log.warning("%s: %d damaged files: %s", pairs.name, len(damaged), first_names(damaged))


def _leave_process_group(worker: int) -> None:
    """Ctrl-C and SIGTERM to the group reach the main process alone, which then ends the step and its workers."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
