"""Training batches: crops, flips, order, cache."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from restore_diff.data.images import DecodedImages, ImageError, refuse_damaged, scan_files
from restore_diff.data.names import DataError, PairPath, first_names
from restore_diff.data.pairs import (
    PairList,
    Renderer,
    Sizes,
    files_of,
    require_crops,
    require_degraded,
    require_equal_sizes,
    without_small,
)
from restore_diff.randomness import generator, mix
from restore_diff.settings import DataConfig, Weather
from restore_diff.tensors import Images
from restore_diff.weather.renderer import WeatherRenderer

# Random crops, flips and turns that treat the images of a pair alike. Images are (C,H,W) of any dtype.

Augmentation = Literal["none", "flips", "flips_and_turns"]


def random_crops(images: Sequence[Tensor], size_px: int, generator: Generator) -> list[Tensor]:
    """The same square of every image, uniformly placed; ValueError where it does not fit."""
    height, width = images[0].shape[1:]
    if size_px > min(height, width):
        raise ValueError(f"a crop of {size_px} px does not fit into {width}x{height}")
    top = _draw(height - size_px + 1, generator)
    left = _draw(width - size_px + 1, generator)
    return [image[:, top : top + size_px, left : left + size_px] for image in images]


def pad_to(image: Tensor, size_px: int) -> Tensor:
    """Grow both sides to at least `size_px`, evenly at both ends: mirrored once, then the last pixel repeated."""
    rows, columns = (_mirrored(side, max(side, size_px)) for side in image.shape[1:])
    return image[:, rows][:, :, columns]


def random_flips(images: Sequence[Tensor], generator: Generator) -> list[Tensor]:
    """Each of left-right and top-bottom with probability 1/2."""
    axes = [axis for axis in (1, 2) if _draw(2, generator)]
    return [image.flip(axes) for image in images]


def random_turn(images: Sequence[Tensor], generator: Generator) -> list[Tensor]:
    """A quarter turn with probability 1/2; with both flips, each of the eight symmetries of a square is as likely."""
    turns = _draw(2, generator)
    return [torch.rot90(image, turns, (1, 2)) for image in images]


def augment(images: Sequence[Tensor], size_px: int, augmentation: Augmentation, generator: Generator) -> list[Tensor]:
    """Crop, then flip and turn as `augmentation` says."""
    images = random_crops(images, size_px, generator)
    if augmentation != "none":
        images = random_flips(images, generator)
    if augmentation == "flips_and_turns":
        images = random_turn(images, generator)
    return list(images)


def _mirrored(old: int, new: int) -> Tensor:
    """(new,) int64: for old=3, new=9 it is 2 2 1 0 1 2 1 0 0 -- mirrored about the edge pixels, then clamped."""
    at = torch.arange(new) - (new - old) // 2
    return torch.where(at < old, at.abs(), 2 * (old - 1) - at).clamp(0, old - 1)


def _draw(count: int, generator: Generator) -> int:
    """Uniform in 0..count - 1."""
    return int(torch.randint(count, (), generator=generator))


# Which pair is drawn at which place of a training run, addressed by seed and place.

BLOCK = 1000
"""Places over which the weights of a mixture hold exactly, as far as whole numbers can."""


class Order:
    """The pair at place k, for any k at the same cost.

    Without parts, each pass over the pairs is a permutation of its own. With parts, each block of places holds each
    part in proportion to its weight, shuffled; the j-th place of a part is number j of its own passes.
    """

    def __init__(self, pairs: PairList, seed: int):
        """DataError for a part without pairs."""
        num_parts = len(pairs.weights)
        self._parts = [tuple(p for p in pairs.pairs if p.part == part) for part in range(num_parts)] or [pairs.pairs]
        for number, of_part in enumerate(self._parts, start=1):
            if not of_part:
                where = f"{pairs.name}, part {number}" if pairs.weights else pairs.name
                raise DataError(f"{where}: no pair is left to train on, without held-out and small images")
        self._counts = share_out(pairs.weights, BLOCK) if pairs.weights else ()
        self._seed = seed

    @property
    def num_pairs(self) -> int:
        return sum(map(len, self._parts))

    def fingerprint(self) -> str:
        """Other for pairs of other names, number or weights; the same wherever they lie."""
        listed = [[pair.name for pair in pairs] for pairs in self._parts]
        return hashlib.sha256(json.dumps([self._counts, listed]).encode()).hexdigest()

    def pair(self, place: int) -> PairPath:
        """The pair at this place, 0 or more."""
        if not self._counts:
            return self._of_part(0, place, ())
        block, offset = divmod(place, BLOCK)
        parts, earlier = _mixture(self._counts, self._seed, block)
        part = int(parts[offset])
        return self._of_part(part, block * self._counts[part] + int(earlier[offset]), (part,))

    def _of_part(self, part: int, turn: int, address: tuple[int, ...]) -> PairPath:
        pairs = self._parts[part]
        epoch, offset = divmod(turn, len(pairs))
        return pairs[int(_permutation(len(pairs), self._seed, *address, epoch)[offset])]


def share_out(weights: tuple[float, ...], total: int) -> tuple[int, ...]:
    """Whole numbers in proportion to the weights, none of them 0, that sum to `total`.

    What rounding down leaves goes to those that lost most by it; what the smallest lack, the largest gives.
    """
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_loss = sorted(range(len(weights)), key=lambda part: counts[part] - exact[part])
    for part in by_loss[: total - sum(counts)]:
        counts[part] += 1
    for part in (part for part, count in enumerate(counts) if not count):
        counts[counts.index(max(counts))] -= 1
        counts[part] = 1
    return tuple(counts)


@lru_cache(maxsize=4)
def _mixture(counts: tuple[int, ...], seed: int, block: int) -> tuple[Tensor, Tensor]:
    """For each place of a block: its part, and how many places before it in the block are of that part."""
    shuffled = torch.randperm(sum(counts), generator=generator(seed, "mixture", block))
    parts = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))[shuffled]
    earlier = torch.empty_like(parts)
    for part, count in enumerate(counts):
        earlier[parts == part] = torch.arange(count)
    return parts, earlier


@lru_cache(maxsize=64)
def _permutation(num_pairs: int, seed: int, *address: int) -> Tensor:
    return torch.randperm(num_pairs, generator=generator(seed, "order", *address))


# The training samples of a run by their position: a crop, turned and degraded, for any position at the same cost.

MOST_REPLACED = 1000
"""Damaged pairs in a row, after which the search for a whole one is given up."""


class Batch(NamedTuple):
    """Crops for one forward pass of one process: a row of neighbours among all samples that the run ever draws."""

    clean: Images
    """float32 (B,3,h,w) in [0, 1]; `degraded` likewise."""
    degraded: Images
    positions: list[int]
    names: list[str]
    weathers: Sequence[Weather | None] = ()
    """What was rendered on each; None where its own degraded picture was read."""
    damaged: tuple[str, ...] = ()
    """What is wrong with the files whose pairs others have replaced here."""


class _Read(NamedTuple):
    pair: PairPath
    images: list[Tensor]
    """uint8 (3,H,W): clean, and degraded if there is a file."""
    damaged: list[str]


@dataclass(frozen=True)
class Samples:
    """Sample k for any k."""

    order: Order
    images: DecodedImages
    render: Renderer | None
    config: DataConfig
    seed: int

    def batch(self, positions: list[int]) -> Batch:
        """The samples at these positions of the run; neighbours that share an image read it once. Raises ImageError."""
        crops: list[list[Tensor]] = []
        pairs: list[PairPath] = []
        damaged: list[str] = []
        for place, group in groupby(positions, lambda position: position // self.config.crops_per_image):
            read = self._read(place)
            damaged += read.damaged
            for position in group:
                draw = generator(self.seed, "augment", position)
                crops.append(augment(read.images, self.config.crop_size_px, self.config.augmentation, draw))
                pairs.append(read.pair)
        clean = torch.stack([crop[0] for crop in crops]).float() / 255
        degraded = torch.stack([crop[-1] for crop in crops]).float() / 255
        rendered = [row for row, crop in enumerate(crops) if len(crop) == 1]
        weathers: list[Weather | None] = [None] * len(crops)
        if rendered:
            assert self.render is not None
            seeds = [mix(self.seed, "weather", positions[row]) for row in rendered]
            kinds: Sequence[Weather | None] = [pairs[row].weather for row in rendered]
            if isinstance(self.render, WeatherRenderer):
                kinds = self.render.kinds(seeds, kinds)
            degraded[rendered] = self.render(clean[rendered], seeds, kinds)
            for row, kind in zip(rendered, kinds, strict=True):
                weathers[row] = kind
        names = [pair.name for pair in pairs]
        return Batch(clean, degraded, positions, names, weathers, tuple(damaged))

    def _read(self, place: int) -> _Read:
        """The pair at this place of the order; if damaged files are skipped, the next one whose files are whole."""
        damaged: list[str] = []
        for candidate in range(place, place + MOST_REPLACED):
            pair = self.order.pair(candidate)
            try:
                images = [self.images[path] for path in (pair.clean, pair.degraded) if path is not None]
            except ImageError as error:
                if self.config.on_bad == "error":
                    raise
                damaged.append(str(error))
                continue
            if self.config.on_small == "pad":
                images = [pad_to(image, self.config.crop_size_px) for image in images]
            return _Read(pair, images, damaged)
        raise ImageError(f"{damaged[-1]}; so are the {MOST_REPLACED - 1} pairs before it")


# Batches of random crops for training. What a batch holds depends on the seed and the step, on nothing else.

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
