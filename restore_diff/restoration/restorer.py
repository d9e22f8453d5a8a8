"""The noise that an image is restored from: it belongs to the seed, the image's name and the pixel."""

import logging
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import NamedTuple, Self

import torch

from restore_diff.diffusion.prediction import Predictor
from restore_diff.diffusion.samplers import Callback, Guidance, Sampler
from restore_diff.environment import free_bytes, is_out_of_memory
from restore_diff.randomness import generator
from restore_diff.restoration.recognition import Recognition
from restore_diff.restoration.tiling import Cuts, TiledPredictor, crop_to, overlapping_cuts, pad_to
from restore_diff.settings import TilingConfig
from restore_diff.tensors import IDENTITY, Codec, Images, Timesteps

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


# Fitting the work to the memory: how many tiles at a time, how much of an image, and what to try when it fails.

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


# A degraded image of any size goes in, a restored one of the same size comes out.

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Samples(NamedTuple):
    """How many restorations of an image are averaged, and whether every other one sees it mirrored."""

    number: int
    mirror: bool = False


ONE_SAMPLE = Samples(1)


class Restoration(NamedTuple):
    """The mean of several samples, and their standard deviation at each pixel: float32 in [0, 1]."""

    images: Images
    spread: Images


class Restorer:
    """Range, padding, tiles, sampling, crop: what stands between image files and a network.

    The result of an image depends on its pixels, its name and the seed: not on the batch or the order that it comes
    in (to 1e-5 in float32: convolutions round differently by the size of the batch).
    """

    def __init__(
        self,
        predictor: Predictor,
        sampler: Sampler,
        tiling: TilingConfig,
        size_multiple: int,
        device: torch.device | str,
        precision: str = "float32",
        samples: Samples = ONE_SAMPLE,
        recognition: Recognition | None = None,
        codec: Codec = IDENTITY,
        guidance: Guidance | None = None,
    ):
        """`recognition` finds the predictor of each image; without it all have the one given.

        `predictor`: on `device`, in evaluation mode; `precision`, one of PRECISIONS, is that of its own arithmetic.

        Raises ValueError for an unknown precision, and for tiles that the network cannot take.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.predictor = predictor
        self.sampler = sampler
        self.size_multiple = size_multiple
        self.tiling = tiling
        self.device = torch.device(device)
        self.precision = precision
        self.samples = samples
        self.recognition = recognition
        self.codec = codec
        self.guidance = guidance
        self.callback: Callback | None = None
        if tiling.tile_size_px:
            TiledPredictor(predictor, tiling, size_multiple)  # what does not fit is told before any image

    def restore(
        self,
        degraded: Images,
        names: Sequence[str],
        seed: int = 0,
        callback: Callback | None = None,
        guidance: Guidance | None = None,
    ) -> Images:
        """Restore images of one size in [0, 1], at least 1 x 1 px: float32 in [0, 1], same size and device.

        The noise of image i belongs to (seed, names[i], position), drawn on the CPU for the image's own pixels. Several
        samples, of the seeds from `seed` on, are averaged.

        A precision below float32 that gives values which are not finite is warned of, and the images done again in
        float32; so are, in tiles of half the size, images for which the memory does not suffice. Very large images are
        restored in bands of rows. Raises ValueError for images or names of another form, FloatingPointError when
        float32 fails as well. `callback` and `guidance`: as `Sampler.sample`, for each sample of each band.
        """
        return self._with(callback, guidance)._restore(degraded, names, seed, with_spread=False)[0]

    def restore_with_spread(
        self,
        degraded: Images,
        names: Sequence[str],
        seed: int = 0,
        callback: Callback | None = None,
        guidance: Guidance | None = None,
    ) -> Restoration:
        """As `restore`, with the standard deviation over the samples: 0 where there is one."""
        return Restoration(*self._with(callback, guidance)._restore(degraded, names, seed, with_spread=True))

    def _with(self, callback: Callback | None, guidance: Guidance | None) -> Self:
        if callback is None and guidance is None:
            return self
        changed = copy(self)
        changed.callback, changed.guidance = callback, guidance or self.guidance
        return changed

    def _restore(self, degraded: Images, names: Sequence[str], seed: int, with_spread: bool) -> list[Images]:
        """Band by band, so that of a very large image only inputs and results are whole in memory."""
        _check(degraded, names)
        if self.recognition is not None:
            images = zip(degraded.split(1), names, strict=True)
            each = [self._told(image)._restore(image, [name], seed, with_spread) for image, name in images]
            return each[0] if len(each) == 1 else [torch.cat(parts) for parts in zip(*each, strict=True)]
        results = [torch.zeros_like(degraded, dtype=torch.float32) for _ in range(1 + with_spread)]
        cuts = bands(*degraded.shape[-2:])
        for start, weight in zip(cuts.starts, cuts.weights, strict=True):
            noise = Noise(degraded.shape[1:], names, seed, rows=(start, start + len(weight)))
            rows = slice(*noise.rows)
            with torch.no_grad():
                found = self._samples(degraded[..., rows, :], noise)
                for result, band in zip(results, found, strict=False):
                    result[..., rows, :].addcmul_(band, weight[:, None].to(band))
        return [result.clamp_(0, 1) for result in results]

    def _told(self, degraded: Images) -> Self:
        """A restorer of this one image, whose weather it knows."""
        assert self.recognition is not None
        told = copy(self)
        told.predictor, told.recognition = self.recognition.predictor(degraded), None
        return told

    def _samples(self, degraded: Images, noise: Noise) -> tuple[Images, Images]:
        """The mean of the samples, and their standard deviation."""
        mean = self._sample_finite(degraded, noise)
        squares = torch.zeros_like(mean)
        for further in range(1, self.samples.number):  # Welford (1962): exact where samples are nearly equal
            of_sample = noise._replace(seed=noise.seed + further)
            if self.samples.mirror and further % 2:
                sample = self._sample_finite(degraded.flip(-1), of_sample).flip(-1)
            else:
                sample = self._sample_finite(degraded, of_sample)
            change = sample - mean
            mean += change / (further + 1)
            squares += change.square_().mul_(further / (further + 1))
        return mean, squares.div_(max(self.samples.number - 1, 1)).sqrt_()

    def _sample_finite(self, degraded: Images, noise: Noise) -> Images:
        restored = self._sample_in_memory(self.precision, degraded, noise)
        names = ", ".join(noise.names)
        if self.precision != "float32" and not restored.isfinite().all():
            logger.warning("%s gave values that are not finite; again in float32: %s", self.precision, names)
            restored = self._sample_in_memory("float32", degraded, noise)
        if not restored.isfinite().all():
            raise FloatingPointError(f"restoring gave values that are not finite: {names}")
        return restored.clamp_(0, 1).to(degraded.device)

    def _sample_in_memory(self, precision: str, degraded: Images, noise: Noise) -> Images:
        """Start anew in smaller tiles for as long as the memory does not suffice: nothing of a failed try is kept."""
        tiling = self.tiling
        while True:
            try:
                return self._sample_once(tiling, precision, degraded, noise)
            except (RuntimeError, MemoryError) as error:
                smaller = halved(tiling, degraded.shape[-2:], self.size_multiple) if is_out_of_memory(error) else None
                if smaller is None:
                    raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            tiling = smaller
            logger.warning("out of memory; again in tiles of %d px: %s", tiling.tile_size_px, ", ".join(noise.names))

    def _sample_once(self, tiling: TilingConfig, precision: str, degraded: Images, noise: Noise) -> Images:
        height, width = degraded.shape[-2:]
        padded = self._padded_size(tiling, height), self._padded_size(tiling, width)
        inputs = self.codec.encode(pad_to(degraded.to(self.device, torch.float32), *padded))
        noise = _of_latents(noise, inputs, self.codec.downscale)
        predictor = self._at_precision(precision)
        if tiling.tile_size_px:
            tiling = replace(tiling, tiles_per_batch=tiling.tiles_per_batch or self._tiles_per_batch(tiling, inputs))
            predictor = TiledPredictor(predictor, tiling, self.size_multiple)

        def draws(draw: int) -> Images:
            return pad_to(noise(draw).to(self.device), *inputs.shape[-2:])

        clean = self.sampler.sample(predictor, inputs, draws, self.callback, self.guidance)
        return crop_to(self.codec.decode(clean), height, width)

    def _tiles_per_batch(self, tiling: TilingConfig, inputs: Images) -> int:
        tile = (min(tiling.tile_size_px, inputs.shape[-2]), min(tiling.tile_size_px, inputs.shape[-1]))
        return tiles_per_batch(self._at_precision(self.precision), self.device, inputs.shape[1], *tile)

    def _padded_size(self, tiling: TilingConfig, length: int) -> int:
        """Tiles, which are of latents, fit any length from their own on; an untiled image needs a multiple."""
        downscale = self.codec.downscale
        tiled = 0 < tiling.tile_size_px <= length // downscale
        multiple = downscale * (1 if tiled else self.size_multiple)
        return -(-length // multiple) * multiple

    def _at_precision(self, precision: str) -> Predictor:
        dtype = PRECISIONS[precision]

        def predict(x_t: Images, t: Timesteps, degraded: Images | None) -> Images:
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
                return self.predictor(x_t, t, degraded)

        return predict


def _of_latents(noise: Noise, latents: Images, downscale: int) -> Noise:
    """The noise of the same rows in the shape of the latents; for pixels, unchanged."""
    channels, height, width = noise.shape
    if downscale == 1 and latents.shape[1] == channels:
        return noise
    first = noise.rows[0] // downscale
    num_rows = -(-(noise.rows[1] - noise.rows[0]) // downscale)
    shape = latents.shape[1], max(-(-height // downscale), first + num_rows), -(-width // downscale)
    return noise._replace(shape=shape, rows=(first, first + num_rows))


def _check(degraded: Images, names: Sequence[str]) -> None:
    if degraded.dim() != 4 or not degraded.is_floating_point() or 0 in degraded.shape:
        form = f"{tuple(degraded.shape)} of {degraded.dtype}"
        raise ValueError(f"degraded must be (batch, channels, height, width) in [0, 1], floating point, got {form}")
    if len(names) != len(degraded):
        raise ValueError(f"every image needs a name: {len(degraded)} images, {len(names)} names")
