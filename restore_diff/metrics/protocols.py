"""Metric protocols by name: how published tables computed PSNR and SSIM. Numbers compare within one protocol only."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from restore_diff.metrics.fidelity import Channel, Covariance, LumaRange, Padding, Pool, Window, psnr, ssim
from restore_diff.tensors import Images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """One convention of PSNR and SSIM; the fields are the settings of `fidelity.psnr` and `fidelity.ssim`."""

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
        return psnr(
            pred,
            target,
            channel=self.channel,
            y_range=self.y_range,
            round_y=self.round_y,
            quantize=self.quantize,
            crop_border=self.crop_border,
        )

    def ssim(self, pred: Images, target: Images) -> Tensor:
        """SSIM of each image, (B,)."""
        return ssim(
            pred,
            target,
            channel=self.channel,
            y_range=self.y_range,
            round_y=self.round_y,
            quantize=self.quantize,
            crop_border=self.crop_border,
            window=self.window,
            padding=self.padding,
            covariance=self.covariance,
            pool=self.pool,
        )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="rgb", channel="rgb", reproduces="BasicSR, RGB"),
        Protocol(name="y_matlab", channel="y", round_y=True, reproduces="MPRNet, Restormer, RDDM, DRSformer"),
        Protocol(name="y_double", channel="y", reproduces="BasicSR on Y, SwinIR, PReNet, RCDNet, WeatherDiffusion"),
        Protocol(name="y_double_crop4", channel="y", crop_border=4, reproduces="IR-SDE, DA-CLIP, WeatherBench"),
        Protocol(
            name="rgb_sk7",
            channel="rgb",
            quantize=False,
            window="uniform7",
            covariance="sample",
            reproduces="AirNet, PromptIR (which also crop to multiples of 16)",
        ),
        Protocol(name="rgb_zeropad", channel="rgb", quantize=False, padding="zero", reproduces="FFA-Net, AECR-Net"),
        Protocol(
            name="rgb_avgpool",
            channel="rgb",
            quantize=False,
            pool="avg256",
            reproduces="DehazeFormer, gUNet, ConvIR (without its padding)",
        ),
        Protocol(
            name="yfull_sk7",
            channel="y",
            y_range="full",
            round_y=True,
            window="uniform7",
            covariance="sample",
            reproduces="DeRaindrop (which also truncates and crops to multiples of 4)",
        ),
    )
}


def select_protocols(chosen: Sequence[str], of_dataset: Sequence[str] = ()) -> tuple[str, ...]:
    """The names to score under: those chosen ("all" means every one), else `rgb` and the protocols of the data set.

    ValueError for an unknown name.
    """
    names = tuple(PROTOCOLS) if "all" in chosen else tuple(chosen) or ("rgb", *of_dataset)
    for name in names:
        if name not in PROTOCOLS:
            raise ValueError(f"unknown metric protocol {name!r}; known: {', '.join(PROTOCOLS)}, all")
    return tuple(dict.fromkeys(names))
