"""Training batches and whole pairs for validation: crops, flips, order."""

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from restore_diff.data.images import DecodedImages, read_rgb_uint8, refuse_damaged, scan_files
from restore_diff.data.names import DataError, ImageError, PairPath, first_names
from restore_diff.data.pairs import (
    Pair,
    PairList,
    Sizes,
    crop_to_min,
    different_sizes,
    files_of,
    require_equal_sizes,
)
from restore_diff.data.workers import MAX_WAIT_S, begin_worker, choose_transport, describe
from restore_diff.randomness import generator, mix
from restore_diff.settings import DataConfig
from restore_diff.tensors import Images

log = logging.getLogger(__name__)

Augmentation = Literal["none", "flips", "flips_and_turns"]
Renderer = Callable[[Images, Sequence[int], Sequence[str | None]], Images]
"""(clean (B,3,H,W) in [0, 1], a seed and a weather or None for each) -> degraded; each image depends on its own only.

A method `kinds(seeds, weathers)`, if there is one, returns the weather that is rendered for each seed.
"""
BLOCK = 1000
"""Places in the order within which the weights of a mixture hold exactly, up to rounding."""
MAX_REPLACED = 1000
"""Damaged pairs in a row after which the search for an intact one stops."""
ENDLESS = 2**62
"""More micro batches than any run takes."""


def require_degraded(pairs: PairList, render: Renderer | None) -> None:
    """Raise DataError for clean photographs without weather to render."""
    if render is None and any(pair.degraded is None for pair in pairs.pairs):
        advice = "choose what to render on them, e.g. data.weather=rain"
        raise DataError(f"{pairs.name} holds clean photographs only: {advice}")


def rendered(
    render: Renderer, clean: Images, seeds: Sequence[int], weathers: Sequence[str | None]
) -> tuple[Images, Images, Sequence[str | None]]:
    """Return clean and degraded images (B,3,H,W), and the weather of each.

    A photograph without weather is its own target, also where the camera added noise: it is to stay as it is.
    """
    if hasattr(render, "kinds"):
        weathers = render.kinds(seeds, weathers)  # type: ignore[attr-defined]
    degraded = render(clean, seeds, weathers)
    unchanged = torch.tensor([weather == "none" for weather in weathers])
    return torch.where(unchanged[:, None, None, None], degraded, clean), degraded, weathers


class PairedImageDataset(Dataset[Pair]):
    """Whole images for validation and test, the same ones each time.

    Pairs without degraded file are rendered by a seed of (seed, name). If not `conditional`, `degraded` is None.
    """

    def __init__(self, pairs: PairList, render: Renderer | None, seed: int, *, conditional: bool = True):
        if conditional:
            require_degraded(pairs, render)
        self.pairs = pairs
        self.render = render
        self.seed = seed
        self.conditional = conditional

    def __len__(self) -> int:
        return len(self.pairs.pairs)

    def __getitem__(self, index: int) -> Pair:
        """Raises ImageError for a file that cannot be read, DataError for a pair of different sizes."""
        pair = self.pairs.pairs[index]
        clean = read_rgb_uint8(pair.clean).float() / 255
        if not self.conditional:
            return Pair(clean, None, pair.name)
        if pair.degraded is None:
            assert self.render is not None
            target, degraded, _ = rendered(
                self.render, clean[None], [mix(self.seed, "weather", pair.name)], [pair.weather]
            )
            target, degraded = ((images[0] * 255).round() / 255 for images in (target, degraded))
            return Pair(target, degraded, pair.name)  # 8 bits, as in a file
        degraded = read_rgb_uint8(pair.degraded).float() / 255
        if degraded.shape != clean.shape:
            if not self.pairs.crop_to_min:
                raise DataError(different_sizes(pair, degraded.shape[1:], clean.shape[1:]))
            degraded, clean = crop_to_min(degraded, clean)
        return Pair(clean, degraded, pair.name)


def random_crops(images: Sequence[Tensor], size_px: int, generator: Generator) -> list[Tensor]:
    """Cut the same square, uniformly placed, from images (C,H,W); ValueError if it does not fit."""
    height, width = images[0].shape[1:]
    if size_px > min(height, width):
        raise ValueError(f"a crop of {size_px} px does not fit into {width}x{height}")
    top = _draw(height - size_px + 1, generator)
    left = _draw(width - size_px + 1, generator)
    return [image[:, top : top + size_px, left : left + size_px] for image in images]


def pad_to(image: Tensor, size_px: int) -> Tensor:
    """Pad both sides evenly to at least `size_px`: mirrored once, then the last pixel repeated."""
    rows, columns = (_mirrored(side, max(side, size_px)) for side in image.shape[1:])
    return image[:, rows][:, :, columns]


def augment(images: Sequence[Tensor], size_px: int, augmentation: Augmentation, generator: Generator) -> list[Tensor]:
    """Crop, then flip each axis and turn by 90 degrees, each with probability 1/2, if `augmentation` includes it."""
    images = random_crops(images, size_px, generator)
    if augmentation != "none":
        axes = [axis for axis in (1, 2) if _draw(2, generator)]
        images = [image.flip(axes) for image in images]
    if augmentation == "flips_and_turns":
        turns = _draw(2, generator)
        images = [torch.rot90(image, turns, (1, 2)) for image in images]
    return images


def _mirrored(old: int, new: int) -> Tensor:
    """Return int64 (new,), e.g. 2 2 1 0 1 2 1 0 0 for old=3, new=9: mirrored about the edge pixels, then clamped."""
    at = torch.arange(new) - (new - old) // 2
    return torch.where(at < old, at.abs(), 2 * (old - 1) - at).clamp(0, old - 1)


def _draw(count: int, generator: Generator) -> int:
    """Draw uniformly from 0..count - 1."""
    return int(torch.randint(count, (), generator=generator))


class Order:
    """The pair at place k, for any k at the same cost.

    Without parts, each pass over the pairs is a new permutation. With parts, each block of places holds each part in
    proportion to its weight, shuffled; the j-th place of a part is number j of the passes over this part.
    """

    def __init__(self, pairs: PairList, seed: int):
        """Raises DataError for a part without pairs."""
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
        """Return a hash of names, parts and weights; independent of folders."""
        listed = [[pair.name for pair in pairs] for pairs in self._parts]
        return hashlib.sha256(json.dumps([self._counts, listed]).encode()).hexdigest()

    def pair(self, place: int) -> PairPath:
        """Return the pair at this place, 0 or more."""
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
    """Return positive integers in proportion to the weights that sum to `total` (largest remainder method).

    Shares of 0 become 1 at the cost of the largest share.
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
    """Return for each place of a block its part, and how many earlier places of the block belong to the same part."""
    shuffled = torch.randperm(sum(counts), generator=generator(seed, "mixture", block))
    parts = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))[shuffled]
    earlier = torch.empty_like(parts)
    for part, count in enumerate(counts):
        earlier[parts == part] = torch.arange(count)
    return parts, earlier


@lru_cache(maxsize=64)
def _permutation(num_pairs: int, seed: int, *address: int) -> Tensor:
    return torch.randperm(num_pairs, generator=generator(seed, "order", *address))


class Batch(NamedTuple):
    """Crops for one forward pass of one process: consecutive samples of the run."""

    clean: Images
    """float32 (B,3,h,w) in [0, 1]; `degraded` likewise, or None in unconditional training."""
    degraded: Images | None
    positions: list[int]
    names: list[str]
    weathers: Sequence[str | None] = ()
    """Weather rendered on each image, None if its degraded image was read from a file; unconditional: its label."""
    damaged: tuple[str, ...] = ()
    """Messages for damaged files whose pairs were replaced."""


@dataclass(frozen=True)
class Samples:
    """Sample k of the run, for any k."""

    order: Order
    images: DecodedImages
    render: Renderer | None
    config: DataConfig
    seed: int
    conditional: bool = True

    def batch(self, positions: list[int]) -> Batch:
        """Return the samples at these positions; consecutive crops of one image read it once. Raises ImageError."""
        crops: list[list[Tensor]] = []
        pairs: list[PairPath] = []
        damaged: list[str] = []
        for place, group in groupby(positions, lambda position: position // self.config.crops_per_image):
            pair, images = self._read(place, damaged)
            for position in group:
                draw = generator(self.seed, "augment", position)
                crops.append(augment(images, self.config.crop_size_px, self.config.augmentation, draw))
                pairs.append(pair)
        clean = torch.stack([crop[0] for crop in crops]).float() / 255
        names = [pair.name for pair in pairs]
        if not self.conditional:
            return Batch(clean, None, positions, names, [pair.weather for pair in pairs], tuple(damaged))
        degraded = torch.stack([crop[-1] for crop in crops]).float() / 255
        weathers: list[str | None] = [None] * len(crops)
        rows = [row for row, crop in enumerate(crops) if len(crop) == 1]
        if rows:
            assert self.render is not None
            seeds = [mix(self.seed, "weather", positions[row]) for row in rows]
            clean[rows], degraded[rows], kinds = rendered(
                self.render, clean[rows], seeds, [pairs[row].weather for row in rows]
            )
            for row, kind in zip(rows, kinds, strict=True):
                weathers[row] = kind
        return Batch(clean, degraded, positions, names, weathers, tuple(damaged))

    def _read(self, place: int, damaged: list[str]) -> tuple[PairPath, list[Tensor]]:
        """Read the pair at this place, uint8 (3,H,W): clean, and degraded if it is a file.

        With on_bad=skip, the next pair whose files are intact; messages for the others are appended to `damaged`.
        """
        for candidate in range(place, place + MAX_REPLACED):
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
            return pair, images
        raise ImageError(f"{damaged[-1]}; so are the {MAX_REPLACED - 1} pairs before it")


class TrainingBatches:
    """An endless sequence of batches that can be entered at any step.

    Sample k = step * batch_size + j is a random crop of the pair at place k // crops_per_image of the `Order`. Order,
    crop, flips and weather depend on (seed, k) only: they are the same for any number of workers, processes and micro
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
        *,
        conditional: bool = True,
    ):
        """Read every file's header and end, and fill the cache.

        `batch_size` counts the samples of all processes; this process is `rank` of `world`. If not `conditional`, only
        clean files are read, and `Batch.degraded` is None. DataError for pairs of different sizes and, unless the
        config pads or skips them, for images smaller than the crop; ImageError, unless the config skips them, for
        damaged files, now or when they are read; ValueError if the batch cannot be split evenly.
        """
        if conditional:
            require_degraded(pairs, render)
        else:
            pairs = replace(pairs, pairs=tuple(pair._replace(degraded=None) for pair in pairs.pairs))
        size = _micro_batch_size(batch_size, num_micro_batches, world)
        croppable, images, self.num_images = _scan(pairs, config)
        self._warned = {str(error) for error in images.damaged.values()}
        batch_bytes = 4 * 3 * config.crop_size_px**2 * (1 + conditional) * size
        # torchrun sets how many of the processes run on this machine
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        self._transport = choose_transport(config.num_workers, batch_bytes, local)
        if rank == 0:
            _warn_at_start(pairs, croppable, sorted(self._warned), describe(self._transport, batch_bytes))
        self.num_cached = images.num_cached
        """Number of the `num_images` files, degraded and clean, that stay decoded in memory."""
        self.order = Order(croppable, seed)
        samples = Samples(self.order, images, render, config, seed, conditional)
        self._micro_batches = _MicroBatches(samples, size, num_micro_batches, rank, world, self._transport.by_pipe)

    def iter_from(self, step: int) -> Iterator[Batch]:
        """Return the batches of this process from `step` on without end, `num_micro_batches` for each step.

        Raises ImageError; RuntimeError when a worker dies, or gives nothing for MAX_WAIT_S.
        """
        samples = self._micro_batches.samples
        config = samples.config
        loader = DataLoader(
            self._micro_batches,
            batch_size=None,
            sampler=range(step * self._micro_batches.num_micro_batches, ENDLESS),
            num_workers=config.num_workers,
            prefetch_factor=self._transport.prefetched if config.num_workers else None,
            pin_memory=torch.cuda.is_available() and not self._transport.by_pipe,
            timeout=MAX_WAIT_S if config.num_workers else 0,
            worker_init_fn=begin_worker,
            generator=generator(samples.seed, "workers"),  # otherwise the global generator is used
        )
        found = iter(loader)  # starts the workers now
        return (self._opened(batch) for batch in found)

    def of_step(self, step: int) -> list[Batch]:
        """The batches of this process for one step, prepared in this process. Raises ImageError."""
        first = step * self._micro_batches.num_micro_batches
        numbers = range(first, first + self._micro_batches.num_micro_batches)
        return [self._opened(self._micro_batches[number]) for number in numbers]

    def _opened(self, found: Batch | ImageError | bytes) -> Batch:
        batch = pickle.loads(found) if isinstance(found, bytes) else found
        if isinstance(batch, ImageError):
            raise batch
        for problem in batch.damaged:
            if problem not in self._warned:
                self._warned.add(problem)
                log.warning("skipped: %s", problem)
        return batch


@dataclass(frozen=True)
class _MicroBatches(Dataset[Batch | ImageError | bytes]):
    """Micro batch number `index` of this process, pickled if it goes through a pipe, or the error that prevents it."""

    samples: Samples
    size: int
    num_micro_batches: int
    rank: int
    world: int
    by_pipe: bool

    def __getitem__(self, index: int) -> Batch | ImageError | bytes:
        step, micro = divmod(index, self.num_micro_batches)
        first = ((step * self.num_micro_batches + micro) * self.world + self.rank) * self.size
        try:
            batch = self.samples.batch(list(range(first, first + self.size)))
            return pickle.dumps(batch, protocol=5) if self.by_pipe else batch
        except ImageError as error:
            return error  # raised in a worker, its message would be a traceback


def _micro_batch_size(batch_size: int, num_micro_batches: int, world: int) -> int:
    """Samples in one micro batch of one process. ValueError if the batch cannot be split evenly."""
    parts = num_micro_batches * world
    if batch_size % parts:
        nearest = f"{max(1, batch_size // parts) * parts} or {(batch_size // parts + 1) * parts}"
        split = f"{num_micro_batches} micro batches x {world} processes"
        raise ValueError(f"batch_size={batch_size} cannot be split evenly over {split}; nearest: {nearest}")
    return batch_size // parts


def _scan(pairs: PairList, config: DataConfig) -> tuple[PairList, DecodedImages, int]:
    """Read headers and ends of all files, fill the cache; return the pairs to crop, the images, and their number."""
    scan = scan_files(files_of(pairs))
    if config.on_bad == "error":
        refuse_damaged(scan.damaged)
    croppable = _croppable(pairs, scan.sizes, config)
    images = DecodedImages(scan, config.cache_mib)
    if config.on_bad == "error" or images.damaged.keys() >= set(files_of(croppable)):
        refuse_damaged(images.damaged)
    return croppable, images, len(scan.sizes)


def _croppable(pairs: PairList, sizes: Sizes, config: DataConfig) -> PairList:
    """Return the pairs to crop, without small ones if the config skips them. DataError for sizes that do not fit."""
    require_equal_sizes(pairs, sizes)
    small = {p.clean: sizes[p.clean] for p in pairs.pairs if min(sizes.get(p.clean, [ENDLESS])) < config.crop_size_px}
    if small and config.on_small == "error":
        named = first_names([f"{path} is {width}x{height}" for path, (height, width) in small.items()])
        rule = f"{len(small)} images are smaller than data.crop_size_px={config.crop_size_px}"
        advice = "set data.on_small=pad or skip, or a smaller crop"
        raise DataError(f"{pairs.name}: {rule}: {named}; {advice}")
    if config.on_small != "skip":
        return pairs
    return replace(pairs, pairs=tuple(pair for pair in pairs.pairs if pair.clean not in small))


def _warn_at_start(pairs: PairList, croppable: PairList, damaged: Sequence[str], transport: str) -> None:
    if transport:
        log.warning("%s", transport)
    if num_small := len(pairs.pairs) - len(croppable.pairs):
        log.warning("%s: %d of %d pairs are smaller than the crop, left out", pairs.name, num_small, len(pairs.pairs))
    if damaged:
        log.warning("%s: %d damaged files: %s", pairs.name, len(damaged), first_names(damaged))
