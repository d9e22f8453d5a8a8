"""PSNR and SSIM of RGB or Y under named protocols: how published tables computed them. Compare within one only.

Scores are float64 on the images' device, one value per image, independent of autocast and TF32.

SSIM follows Wang et al. (2004), SSIM_index.m: 11-tap Gaussian with sigma 1.5, valid region only, K1 = 0.01, K2 = 0.03,
peak 255. Other settings reproduce particular papers.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from restore_diff.tensors import Images

Channel = Literal["rgb", "y"]
LumaRange = Literal["studio", "full"]
Window = Literal["gauss11", "uniform7"]
Padding = Literal["valid", "zero"]
Covariance = Literal["population", "sample"]
Pool = Literal["none", "avg256"]

PEAK = 255.0
C1 = (0.01 * PEAK) ** 2
C2 = (0.03 * PEAK) ** 2

_GAUSSIAN = [math.exp(-((k - 5) ** 2) / (2 * 1.5**2)) for k in range(11)]
TAPS: dict[Window, list[float]] = {
    "gauss11": [tap / sum(_GAUSSIAN) for tap in _GAUSSIAN],
    "uniform7": [1 / 7] * 7,
}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one CPU thread inside the block.

    A score runs hundreds of short loops: a second thread gains little, and on a busy core it makes each loop wait.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One convention of PSNR and SSIM.

    Images are (B, 1 or 3, H, W), RGB, uint8 or floating in [0, 1]. They are quantized, converted to Y, and cropped, in
    this order. An image with a non-finite pixel gives NaN. ValueError for unequal or other shapes.
    """

    name: str
    reproduces: str
    channel: Channel
    y_range: LumaRange = "studio"
    round_y: bool = False
    quantize: bool = True
    crop_border: int = 0
    window: Window = "gauss11"
    padding: Padding = "valid"
    covariance: Covariance = "population"
    pool: Pool = "none"
    """avg256: average down to a shorter side of about 256 px before SSIM (evaluation code of DehazeFormer)."""
    version: int = 1

    @torch.no_grad()
    @_one_thread()
    def psnr(self, pred: Images, target: Images) -> Tensor:
        """Peak signal-to-noise ratio in dB, (B,); peak 255, squared error averaged over channels and pixels.

        Equal images give +inf; an image that is empty after the crop gives NaN.
        """
        x, y = self._levels(pred, target)
        mean_squared_error = (x - y).square_().mean(dim=(1, 2, 3))
        return 20 * math.log10(PEAK) - 10 * mean_squared_error.log10()

    @torch.no_grad()
    @_one_thread()
    def ssim(self, pred: Images, target: Images) -> Tensor:
        """Structural similarity, (B,), at most 1: mean over the map of each channel, then over channels.

        An image smaller than the window gives NaN.
        """
        x, y = self._levels(pred, target)
        taps = TAPS[self.window]
        if self.pool == "avg256":
            x, y = _pool(x), _pool(y)
        if self.padding == "zero":
            x, y = (F.pad(levels, [len(taps) // 2] * 4) for levels in (x, y))
        if min(x.shape[-2:]) < len(taps):
            return x.new_full((x.shape[0],), math.nan)
        # Channel by channel: a third of the memory, so that the maps of a photograph fit in the cache.
        channels = zip(x.unbind(dim=1), y.unbind(dim=1), strict=True)
        return torch.stack([_ssim_map(a, b, taps, self.covariance).mean(dim=(1, 2)) for a, b in channels]).mean(dim=0)

    def _levels(self, *pair: Images) -> list[Tensor]:
        if pair[0].shape != pair[1].shape:
            raise ValueError(f"images must have the same shape, got {tuple(pair[0].shape)} and {tuple(pair[1].shape)}")
        levels = [to_levels(images, quantize=self.quantize) for images in pair]
        if self.channel == "y":
            levels = [rgb_to_y(each, y_range=self.y_range, round_y=self.round_y) for each in levels]
        border, (height, width) = self.crop_border, pair[0].shape[-2:]
        return [each[..., border : max(height - border, 0), border : max(width - border, 0)] for each in levels]


_SK7: dict[str, Any] = {"window": "uniform7", "covariance": "sample"}
"""Defaults of scikit-image's structural_similarity."""

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="rgb", reproduces="BasicSR, RGB", channel="rgb"),
        Protocol(name="y_matlab", reproduces="MPRNet, Restormer, RDDM, DRSformer", channel="y", round_y=True),
        Protocol(name="y_double", reproduces="BasicSR on Y, SwinIR, PReNet, RCDNet, WeatherDiffusion", channel="y"),
        Protocol(name="y_double_crop4", reproduces="IR-SDE, DA-CLIP, WeatherBench", channel="y", crop_border=4),
        Protocol(
            name="rgb_sk7",
            reproduces="AirNet, PromptIR (which also crop to multiples of 16)",
            channel="rgb",
            quantize=False,
            **_SK7,
        ),
        Protocol(name="rgb_zeropad", reproduces="FFA-Net, AECR-Net", channel="rgb", quantize=False, padding="zero"),
        Protocol(
            name="rgb_avgpool",
            reproduces="DehazeFormer, gUNet, ConvIR (without its padding)",
            channel="rgb",
            quantize=False,
            pool="avg256",
        ),
        Protocol(
            name="yfull_sk7",
            reproduces="DeRaindrop (which also truncates and crops to multiples of 4)",
            channel="y",
            y_range="full",
            round_y=True,
            **_SK7,
        ),
    )
}


def select_protocols(chosen: Sequence[str], of_dataset: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the chosen protocols ("all": every one), else `rgb` and those of the data set, without repeats.

    ValueError for an unknown name.
    """
    names = tuple(PROTOCOLS) if "all" in chosen else tuple(chosen) or ("rgb", *of_dataset)
    for name in names:
        if name not in PROTOCOLS:
            raise ValueError(f"unknown metric protocol {name!r}; known: {', '.join(PROTOCOLS)}, all")
    return tuple(dict.fromkeys(names))


def to_levels(images: Images, *, quantize: bool = True) -> Tensor:
    """Convert uint8 images, or floating ones in [0, 1], to levels 0..255 in float64 (float32 on MPS).

    Floating values are clamped, and rounded half up to whole levels if `quantize`; non-finite values become NaN.
    ValueError unless the shape is (B, 1 or 3, H, W), TypeError for other dtypes.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be (batch, 1 or 3 channels, height, width), got {tuple(images.shape)}")
    precision = torch.float32 if images.device.type == "mps" else torch.float64
    if images.dtype == torch.uint8:
        return images.to(precision)
    if not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point in [0, 1], got {images.dtype}")
    levels = images.to(precision)
    levels = torch.where(levels.isfinite(), levels.clamp(0, 1) * PEAK, math.nan)
    return _round_half_up(levels) if quantize else levels


def rgb_to_y(levels: Tensor, *, y_range: LumaRange = "studio", round_y: bool = False) -> Tensor:
    """ITU-R BT.601 luma of RGB levels: "studio" in 16..235 (MATLAB's rgb2ycbcr), "full" in 0..255 (OpenCV).

    A single channel is returned unchanged, as in the published scripts. `round_y` rounds as MATLAB does for uint8.
    """
    luma = levels
    if levels.shape[1] == 3:
        red, green, blue = levels.unbind(dim=1)
        # Integer coefficients keep sums of whole levels exact, so that halves round as in integer arithmetic.
        if y_range == "studio":
            luma = (65481 * red).add_(green, alpha=128553).add_(blue, alpha=24966).div_(255000).add_(16)
        else:
            luma = (299 * red).add_(green, alpha=587).add_(blue, alpha=114).div_(1000)
        luma = luma.unsqueeze(1)
    return _round_half_up(luma) if round_y else luma


def _ssim_map(x: Tensor, y: Tensor, taps: list[float], covariance: Covariance) -> Tensor:
    mean_x, mean_y = _local_mean(x, taps), _local_mean(y, taps)
    product = mean_x * mean_y
    squares = mean_x.square_().add_(mean_y.square_())
    # The two variances are needed as a sum only, so one blur serves both.
    variances = _local_mean(x.square().addcmul_(y, y), taps).sub_(squares)
    twice_covariance = _local_mean(x * y, taps).sub_(product).mul_(2)
    if covariance == "sample":
        num_samples = len(taps) ** 2
        variances *= num_samples / (num_samples - 1)
        twice_covariance *= num_samples / (num_samples - 1)
    numerator = product.mul_(2).add_(C1).mul_(twice_covariance.add_(C2))
    return numerator.div_(squares.add_(C1).mul_(variances.add_(C2)))


def _local_mean(images: Tensor, taps: list[float]) -> Tensor:
    """Weighted mean over a square window in the valid region, (..., H - n + 1, W - n + 1) for n taps.

    Shifted additions instead of a convolution: much faster in float64 on a CPU, and without TF32 on a GPU.
    """
    for axis in (-2, -1):
        length = images.shape[axis] - len(taps) + 1
        total = images.narrow(axis, 0, length) * taps[0]
        for offset, tap in enumerate(taps[1:], start=1):
            total.add_(images.narrow(axis, offset, length), alpha=tap)
        images = total
    return images


def _pool(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    factor = max(1, round(min(height, width) / 256))
    return F.adaptive_avg_pool2d(images, (height // factor, width // factor))


def _round_half_up(values: Tensor) -> Tensor:
    return (values + 0.5).floor()
