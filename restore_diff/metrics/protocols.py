"""Named metric protocols: how published tables computed PSNR and SSIM. Compare numbers within one protocol only."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from restore_diff.metrics.fidelity import Channel, Covariance, LumaRange, Padding, Pool, Window, psnr, ssim
from restore_diff.tensors import Images

PSNR_SETTINGS = ("channel", "y_range", "round_y", "quantize", "crop_border")
SSIM_SETTINGS = (*PSNR_SETTINGS, "window", "padding", "covariance", "pool")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """One convention of PSNR and SSIM: settings of `fidelity.psnr` and `fidelity.ssim`."""

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
    version: int = 1

    def psnr(self, pred: Images, target: Images) -> Tensor:
        """PSNR in dB of each image, (B,)."""
        return psnr(pred, target, **self._settings(PSNR_SETTINGS))

    def ssim(self, pred: Images, target: Images) -> Tensor:
        """SSIM of each image, (B,)."""
        return ssim(pred, target, **self._settings(SSIM_SETTINGS))

    def _settings(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}


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
