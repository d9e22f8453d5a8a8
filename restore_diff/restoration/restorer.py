"""A degraded image of any size goes in, a restored one of the same size comes out."""

import logging
from collections.abc import Sequence

import torch

from restore_diff.diffusion.prediction import Predictor
from restore_diff.diffusion.samplers import Sampler
from restore_diff.randomness import generator
from restore_diff.restoration.config import TilingConfig
from restore_diff.restoration.padding import crop_to, pad_to
from restore_diff.restoration.tiling import TiledPredictor
from restore_diff.tensors import Images, Timesteps, to_model_range, to_unit_range

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Restorer:
    """Range, padding, tiles, sampling, crop: what stands between image files and a network.

    The result of an image depends on its pixels, its name and the seed: not on the batch or the order that it comes
    in (to 1e-5: convolutions round differently by the size of the batch).
    """

    def __init__(
        self,
        predictor: Predictor,
        sampler: Sampler,
        tiling: TilingConfig,
        size_multiple: int,
        device: torch.device | str,
        precision: str = "float32",
    ):
        """`predictor`: on `device`, in evaluation mode; `precision`, one of PRECISIONS, is that of its own arithmetic.

        Raises ValueError for an unknown precision, and for tiles that the network cannot take.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.sampler = sampler
        self.size_multiple = size_multiple
        self.tiling = tiling
        self.device = torch.device(device)
        self.precision = precision
        self._predictor = self._tiled(predictor, precision)
        self._float32_predictor = self._tiled(predictor, "float32")

    def restore(self, degraded: Images, names: Sequence[str], seed: int = 0) -> Images:
        """Restore images of one size in [0, 1], at least 1 x 1 px: float32 in [0, 1], same size and device.

        The noise of image i belongs to (seed, names[i], position), drawn on the CPU for the image's own pixels.

        A precision below float32 that gives values which are not finite is warned of, and the images done again in
        float32. Raises ValueError for images or names of another form, FloatingPointError when float32 fails as well.
        """
        _check(degraded, names)
        with torch.inference_mode():
            restored = self._restore(self._predictor, degraded, names, seed)
            if self.precision != "float32" and not restored.isfinite().all():
                logger.warning(
                    "%s gave values that are not finite; again in float32: %s", self.precision, ", ".join(names)
                )
                restored = self._restore(self._float32_predictor, degraded, names, seed)
            if not restored.isfinite().all():
                raise FloatingPointError(f"restoring gave values that are not finite: {', '.join(names)}")
            restored = restored.clamp(0, 1).to(degraded.device)
        return restored.clone()  # An ordinary tensor: one made in inference mode refuses in-place changes outside it.

    def _restore(self, predictor: Predictor, degraded: Images, names: Sequence[str], seed: int) -> Images:
        height, width = degraded.shape[-2:]
        padded = self._padded_size(height), self._padded_size(width)

        def noise(draw: int) -> Images:
            shape = degraded.shape[1:]
            draws = [torch.randn(shape, generator=generator(seed, "noise", name, draw)) for name in names]
            return pad_to(torch.stack(draws).to(self.device), *padded)

        inputs = pad_to(to_model_range(degraded.to(self.device, torch.float32)), *padded)
        clean = self.sampler.sample(predictor, inputs, noise)
        return to_unit_range(crop_to(clean, height, width))

    def _padded_size(self, length: int) -> int:
        """Tiles fit any length from their own on; what the network sees at once needs a multiple."""
        if 0 < self.tiling.tile_size_px <= length:
            return length
        return -(-length // self.size_multiple) * self.size_multiple

    def _tiled(self, predictor: Predictor, precision: str) -> Predictor:
        dtype = PRECISIONS[precision]

        def predict(x_t: Images, t: Timesteps, degraded: Images | None) -> Images:
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
                return predictor(x_t, t, degraded)

        return TiledPredictor(predict, self.tiling, self.size_multiple) if self.tiling.tile_size_px else predict


def _check(degraded: Images, names: Sequence[str]) -> None:
    if degraded.dim() != 4 or not degraded.is_floating_point() or 0 in degraded.shape:
        form = f"{tuple(degraded.shape)} of {degraded.dtype}"
        raise ValueError(f"degraded must be (batch, channels, height, width) in [0, 1], floating point, got {form}")
    if len(names) != len(degraded):
        raise ValueError(f"every image needs a name: {len(degraded)} images, {len(names)} names")
