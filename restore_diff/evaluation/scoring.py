"""What an image is scored by, on its 8-bit levels: scoring in memory equals scoring the saved PNG, bit for bit."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from restore_diff.metrics.fidelity import to_levels
from restore_diff.metrics.perceptual import LPIPS
from restore_diff.metrics.protocols import PROTOCOLS
from restore_diff.tensors import Images

INPUT = "_input"
"""End of the names of those columns that hold the scores of the degraded image itself."""


@dataclass(frozen=True)
class Row:
    """The scores of one image restored with one seed."""

    name: str
    width: int
    height: int
    seed: int
    scores: dict[str, float]
    """By column: psnr_<protocol> in dB, ssim_<protocol>, lpips_<net>; ending in `INPUT`, of the degraded image."""
    seconds: float
    """Time that restoring took."""
    flags: tuple[str, ...] = ()
    """identical: to the clean image; nonfinite: pixels that are not numbers; small: too few pixels for some metric;
    grey: the clean image has no colour; cropped: to the size that it shares with the clean image."""


class Scorer:
    """Scores uint8 images under metric protocols, and by LPIPS where it is given.

    `protocols` are names in `metrics.protocols.PROTOCOLS`; of `metrics`, psnr and ssim are computed under each.
    """

    def __init__(
        self, protocols: Sequence[str], lpips: LPIPS | None = None, metrics: Sequence[str] = ("psnr", "ssim")
    ) -> None:
        self.protocols = [PROTOCOLS[name] for name in protocols]
        self.lpips = lpips
        self.metrics = metrics

    def __call__(self, image: Tensor, clean: Tensor) -> dict[str, float]:
        """The scores by column of a uint8 (3, H, W) image; inf and NaN as the metrics give them."""
        pred, target = image[None], clean[None]
        scores: dict[str, float] = {}
        for protocol in self.protocols:
            if "psnr" in self.metrics:
                scores[f"psnr_{protocol.name}"] = protocol.psnr(pred, target).item()
            if "ssim" in self.metrics:
                scores[f"ssim_{protocol.name}"] = protocol.ssim(pred, target).item()
        if self.lpips is not None:
            scores[f"lpips_{self.lpips.net}"] = self.lpips(pred / 255, target / 255).item()
        return scores


def quantize(images: Images) -> Tensor:
    """The uint8 levels that a PNG of images in [0, 1] holds, rounded half up; 0 where a pixel is not finite."""
    return to_levels(images).nan_to_num_(0).to(torch.uint8)


def flags_of(scores: dict[str, float], image: Tensor, clean: Tensor) -> tuple[str, ...]:
    """The flags of a uint8 image (3, H, W), all of whose pixels are finite."""
    small = any(score != score for score in scores.values())
    grey = bool((clean == clean[:1]).all())
    return ("identical",) * torch.equal(image, clean) + ("small",) * small + ("grey",) * grey
