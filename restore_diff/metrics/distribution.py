"""FID (Heusel et al., 2017) and KID (Binkowski et al., 2018) of two sets of images by torchmetrics, which is optional.

Features are torch-fidelity's Inception of 2015; images are resized to 299 x 299 as TensorFlow 1 does, bilinearly and
without antialiasing, as in the published tables.
"""

import warnings
from collections.abc import Iterable
from importlib.metadata import version
from typing import NamedTuple

import torch
from torch import Tensor, nn

from restore_diff.metrics.weights import MetricUnavailable, cached_weights, checked_sha256

RESIZE = "299 x 299, bilinear, without antialiasing"
WEIGHTS = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
NUM_FEATURES = 2048
SUBSET_SIZE = 1000
NUM_SUBSETS = 100


class Distances(NamedTuple):
    fid: float
    """0 for equal sets; biased upwards, the more so the fewer images there are."""
    kid: float
    """Unbiased, so that it may be below 0."""
    kid_std: float
    """Between random subsets of 1,000 images; 0 where there are no more than that."""


class InceptionDistance:
    """Distance between two sets of images as Inception sees them.

    MetricUnavailable where torchmetrics, torch-fidelity or the weights are missing; `download` fetches the weights.
    """

    def __init__(self, device: torch.device | str = "cpu", *, download: bool = False) -> None:
        try:
            import torch_fidelity  # type: ignore[import-not-found]
            from torchmetrics.image.fid import NoTrainInceptionV3
        except ImportError as error:
            raise MetricUnavailable(f"{error}: pip install restore_diff[fid]") from error
        weights = cached_weights(WEIGHTS, "91 MB", "pass --download", download=download)
        checked_sha256(weights)
        self.tool = f"torchmetrics {version('torchmetrics')}, torch-fidelity {torch_fidelity.__version__}"
        self.device = torch.device(device)
        self.inception: nn.Module = NoTrainInceptionV3(
            name="inception-v3-compat",
            features_list=[str(NUM_FEATURES)],
            feature_extractor_weights_path=str(weights),
            antialias=False,
        ).to(self.device)

    @torch.no_grad()
    def __call__(self, pred: Iterable[Tensor], target: Iterable[Tensor]) -> Distances:
        """Of uint8 (3, H, W) images of any sizes. KID's subsets are always the same ones.

        MetricUnavailable for a set of fewer than two images.
        """
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        features = {False: self._features(pred), True: self._features(target)}
        least = min(len(rows) for rows in features.values())
        if least < 2:
            raise MetricUnavailable(f"FID and KID need two images or more on both sides, got {least}")
        fid = FrechetInceptionDistance(feature=_Given())
        num_subsets = NUM_SUBSETS if least > SUBSET_SIZE else 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it keeps the features
            kid = KernelInceptionDistance(feature=_Given(), subsets=num_subsets, subset_size=min(least, SUBSET_SIZE))
        for real, rows in features.items():
            fid.update(rows, real=real)
            kid.update(rows, real=real)
        with torch.random.fork_rng(devices=[]):  # torchmetrics draws the subsets from the global generator
            torch.manual_seed(0)
            mean, std = kid.compute()
        return Distances(fid.compute().item(), mean.item(), std.item())

    def _features(self, images: Iterable[Tensor]) -> Tensor:
        return torch.cat([self.inception(image[None].to(self.device)).cpu() for image in images])


class _Given(nn.Module):
    """Stands where torchmetrics has its network: the features are computed already, once for both distances."""

    num_features = NUM_FEATURES

    def forward(self, features: Tensor) -> Tensor:
        return features
