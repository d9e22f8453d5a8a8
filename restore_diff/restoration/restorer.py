"""Restorer: pre- and post-processing around sampling, for images of any size."""

import logging
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Self

import torch

from restore_diff.diffusion.prediction import Predictor
from restore_diff.diffusion.samplers import Callback, Guidance, Sampler
from restore_diff.environment import free_bytes, is_out_of_memory
from restore_diff.randomness import generator
from restore_diff.restoration.recognition import Recognition
from restore_diff.restoration.tiling import Cuts, TiledPredictor, crop_to, overlapping_cuts, pad_to, round_up
from restore_diff.settings import TilingConfig
from restore_diff.tensors import IDENTITY, Codec, Images, Timesteps

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

ROWS_PER_BLOCK = 1024
"""Rows of noise drawn by one generator, so that a band of a large image is drawn without the rest."""

MIN_TILE_PX = 64
"""Smaller tiles are not tried when memory runs out: they give the network too little context."""

CPU_PIXELS_PER_BATCH = 256**2
"""On a CPU, larger batches exceed the cache."""

MAX_TILES_PER_BATCH = 256
SHARE_OF_FREE_MEMORY = 0.6

MAX_PIXELS_IN_ONE_PIECE = 16_000_000
"""Larger images are restored in bands. A sampler holds about ten float32 images: 2 GB at this size."""

PIXELS_PER_BAND = 8_000_000
BAND_OVERLAP_PX = 128


class Samples(NamedTuple):
    """Number of samples to average per image; with `mirror`, every other one is made from the mirrored image."""

    number: int
    mirror: bool = False


ONE_SAMPLE = Samples(1)


class Restoration(NamedTuple):
    """Mean and per-pixel standard deviation of the samples, float32 in [0, 1]."""

    images: Images
    spread: Images


class Noise(NamedTuple):
    """Noise of some rows of images of `shape` (channels, height, width), one image per name."""

    shape: Sequence[int]
    names: Sequence[str]
    seed: int
    rows: tuple[int, int]
    """First row, and one after the last."""

    def __call__(self, draw: int) -> Images:
        """Draw k: standard normal, float32 on the CPU, (len(names), channels, number of rows, width)."""
        channels, height, width = self.shape
        first, end = self.rows
        noise = torch.empty(len(self.names), channels, end - first, width)
        for place, name in enumerate(self.names):
            for start in range(first - first % ROWS_PER_BLOCK, end, ROWS_PER_BLOCK):
                stop = min(start + ROWS_PER_BLOCK, height)
                address = (name, draw, start) if start else (name, draw)
                random = generator(self.seed, "noise", *address)
                block = torch.randn(channels, stop - start, width, generator=random)
                upper, lower = max(start, first), min(stop, end)
                noise[place, :, upper - first : lower - first] = block[:, upper - start : lower - start]
        return noise

    def of_latents(self, channels: int, downscale: int) -> "Noise":
        """The noise of the same rows in the shape of latents; for the identity codec, the same noise."""
        height, width = (-(-side // downscale) for side in self.shape[1:])
        first = self.rows[0] // downscale
        end = first - (self.rows[0] - self.rows[1]) // downscale
        return self._replace(shape=(channels, max(height, end), width), rows=(first, end))


class Restorer:
    """Restores images in [0, 1]: codec, padding, tiles, precision, sampling, crop.

    The result of an image depends on its pixels, its name and the seed, not on its batch (to 1e-5 in float32:
    convolutions round differently by batch size).
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
        prepare: Callable[[Images], Images] | None = None,
    ):
        """`predictor` is on `device`, in evaluation mode; with `recognition`, each image has a predictor of its own.

        `precision`, one of PRECISIONS, is that of the predictor's arithmetic. `size_multiple` and `tiling` count
        latents of the codec. `prepare` is applied to images in [0, 1] first, and may enlarge them. Raises ValueError
        for an unknown precision, and for tiles that do not fit the network.
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
        self.prepare = prepare
        self.callback: Callback | None = None
        if tiling.tile_size_px:
            TiledPredictor(predictor, tiling, size_multiple)  # reject settings that do not fit before any image

    def restore(
        self,
        degraded: Images,
        names: Sequence[str],
        seed: int = 0,
        callback: Callback | None = None,
        guidance: Guidance | None = None,
    ) -> Images:
        """Restore images of one size in [0, 1], at least 1 x 1 px: float32 in [0, 1], same size (unless `prepare`
        enlarges them) and device.

        The noise of image i depends on (seed, names[i], position) and is drawn on the CPU. Several samples use the
        seeds from `seed` on and are averaged. `callback` and `guidance`: as `Sampler.sample`, for each sample of each
        band.

        Non-finite values in low precision: a warning, then again in float32. Out of memory: a warning, then again in
        tiles of half the size. Very large images are restored in bands of rows. Raises ValueError for malformed images
        or names, and FloatingPointError when float32 gives non-finite values too.
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
        """As `restore`, with the standard deviation over the samples: 0 for a single sample."""
        return Restoration(*self._with(callback, guidance)._restore(degraded, names, seed, with_spread=True))

    def _with(self, callback: Callback | None, guidance: Guidance | None) -> Self:
        changed = copy(self)
        changed.callback, changed.guidance = callback, guidance or self.guidance
        return changed

    @torch.no_grad()
    def _restore(self, degraded: Images, names: Sequence[str], seed: int, with_spread: bool) -> list[Images]:
        """Band by band: of a very large image, only the input and the results are whole in memory."""
        _check(degraded, names)
        degraded = degraded if self.prepare is None else self.prepare(degraded)
        if self.recognition is not None:
            images = zip(degraded.split(1), names, strict=True)
            each = [self._recognised(image)._restore(image, [name], seed, with_spread) for image, name in images]
            return each[0] if len(each) == 1 else [torch.cat(parts) for parts in zip(*each, strict=True)]
        results = [torch.zeros_like(degraded, dtype=torch.float32) for _ in range(1 + with_spread)]
        cuts = bands(*degraded.shape[-2:])
        for start, weight in zip(cuts.starts, cuts.weights, strict=True):
            noise = Noise(degraded.shape[1:], names, seed, rows=(start, start + len(weight)))
            rows = slice(*noise.rows)
            found = self._mean_and_deviation(degraded[..., rows, :], noise)
            for result, band in zip(results, found, strict=False):
                result[..., rows, :].addcmul_(band, weight[:, None].to(band))
        return [result.clamp_(0, 1) for result in results]

    def _recognised(self, degraded: Images) -> Self:
        """A restorer with the predictor for this one image's weather."""
        assert self.recognition is not None
        changed = copy(self)
        changed.predictor, changed.recognition = self.recognition.predictor(degraded), None
        return changed

    def _mean_and_deviation(self, degraded: Images, noise: Noise) -> tuple[Images, Images]:
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
            logger.warning("%s gave non-finite values; again in float32: %s", self.precision, names)
            restored = self._sample_in_memory("float32", degraded, noise)
        if not restored.isfinite().all():
            raise FloatingPointError(f"the restored values are not finite: {names}")
        return restored.clamp_(0, 1).to(degraded.device)

    def _sample_in_memory(self, precision: str, degraded: Images, noise: Noise) -> Images:
        """Start again in smaller tiles while memory is short; nothing of a failed attempt is kept."""
        tiling = self.tiling
        size = [-(-side // self.codec.downscale) for side in degraded.shape[-2:]]
        while True:
            try:
                return self._sample_once(tiling, precision, degraded, noise)
            except (RuntimeError, MemoryError) as error:
                smaller = halved(tiling, size, self.size_multiple) if is_out_of_memory(error) else None
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
        noise = noise.of_latents(inputs.shape[1], self.codec.downscale)
        predictor = self._at_precision(precision)
        if tile := tiling.tile_size_px:
            if not tiling.tiles_per_batch:
                sides = (min(tile, side) for side in inputs.shape[-2:])
                number = tiles_per_batch(self._at_precision(self.precision), self.device, inputs.shape[1], *sides)
                tiling = replace(tiling, tiles_per_batch=number)
            predictor = TiledPredictor(predictor, tiling, self.size_multiple)

        def draws(draw: int) -> Images:
            return pad_to(noise(draw).to(self.device), *inputs.shape[-2:])

        clean = self.sampler.sample(predictor, inputs, draws, self.callback, self.guidance)
        return crop_to(self.codec.decode(clean), height, width)

    def _padded_size(self, tiling: TilingConfig, length: int) -> int:
        """Tiles of latents fit any length from their own on; an untiled image must be a multiple."""
        downscale = self.codec.downscale
        is_tiled = 0 < tiling.tile_size_px <= length // downscale
        return round_up(length, downscale * (1 if is_tiled else self.size_multiple))

    def _at_precision(self, precision: str) -> Predictor:
        dtype = PRECISIONS[precision]

        def predict(x_t: Images, t: Timesteps, degraded: Images | None, **condition: Any) -> Images:
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
                return partial(self.predictor, **condition)(x_t, t, degraded)

        return predict


def tiles_per_batch(predictor: Predictor, device: torch.device, channels: int, height: int, width: int) -> int:
    """Number of tiles of this size per batch; on a GPU, measured by predicting one tile."""
    if device.type != "cuda":
        return max(1, CPU_PIXELS_PER_BATCH // (height * width))
    tile = torch.zeros(1, channels, height, width, device=device)
    t = torch.zeros(1, dtype=torch.int64, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    predictor(tile, t, tile)
    needed = max(torch.cuda.max_memory_allocated(device) - before, 1)
    available = (free_bytes(device) or 0) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(MAX_TILES_PER_BATCH, max(1, int(SHARE_OF_FREE_MEMORY * available) // needed))


def bands(height: int, width: int) -> Cuts:
    """Bands of full rows in which an image is restored: a single one, unless it is very large.

    Each band is restored by itself, from the noise of its pixels, and fades into its neighbours.
    """
    rows, overlap = height, 0
    if height * width > MAX_PIXELS_IN_ONE_PIECE:
        rows, overlap = max(PIXELS_PER_BAND // width, 2 * BAND_OVERLAP_PX), BAND_OVERLAP_PX
    return overlapping_cuts(height, rows, overlap, "hann", torch.device("cpu"))


def halved(tiling: TilingConfig, size: Sequence[int], multiple: int) -> TilingConfig | None:
    """The same settings with tiles of half the size, or half the image if untiled; None if that is too small."""
    tile = min(tiling.tile_size_px or max(size), max(size)) // 2
    tile -= tile % multiple
    if tile < MIN_TILE_PX:
        return None
    return replace(tiling, tile_size_px=tile, tile_overlap_px=min(tiling.tile_overlap_px, tile // 4), tiles_per_batch=1)


def _check(degraded: Images, names: Sequence[str]) -> None:
    if degraded.dim() != 4 or not degraded.is_floating_point() or 0 in degraded.shape:
        form = f"{tuple(degraded.shape)} of {degraded.dtype}"
        raise ValueError(f"degraded must be (batch, channels, height, width) in [0, 1], floating point, got {form}")
    if len(names) != len(degraded):
        raise ValueError(f"every image needs a name: {len(degraded)} images, {len(names)} names")
