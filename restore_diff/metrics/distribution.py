"""Metrics without a clean reference: FID and KID by torchmetrics, no-reference scores by pyiqa; both optional.

FID (Heusel et al., 2017) and KID (Binkowski et al., 2018) use the 2015 Inception of torch-fidelity; images are resized
to 299 x 299 bilinearly without antialiasing, as TensorFlow 1 and published tables did. No-reference scores (NIQE,
MUSIQ, ...) reward sharpness and noise and depend on the implementation: compare only within one version of one tool.
"""

import contextlib
import logging
import math
import socket
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from restore_diff.metrics.perceptual import MetricUnavailable, cached_weights, checked_sha256

logger = logging.getLogger(__name__)

RESIZE = "299 x 299, bilinear, without antialiasing"
COMMAND = "restore-diff test --pred FOLDER --target FOLDER --fid --download"
WEIGHTS = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
NUM_FEATURES = 2048
SUBSET_SIZE = 1000
NUM_SUBSETS = 100


class Distances(NamedTuple):
    fid: float
    """0 for equal sets; biased upwards for few images."""
    kid: float
    """Unbiased; may be negative."""
    kid_std: float
    """Standard deviation over random subsets of 1,000 images; 0 for fewer images."""


class InceptionDistance:
    """FID and KID between two sets of images.

    MetricUnavailable if torchmetrics, torch-fidelity or the weights are missing; `download` fetches the weights.
    """

    def __init__(self, device: torch.device | str = "cpu", *, download: bool = False) -> None:
        try:
            import torch_fidelity  # type: ignore[import-not-found]
            from torchmetrics.image.fid import NoTrainInceptionV3
        except ImportError as error:
            raise MetricUnavailable(f"{error}: pip install restore_diff[fid]") from error
        weights = cached_weights(WEIGHTS, "91 MB", COMMAND, download=download)
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
        """Compare uint8 (3, H, W) images of any sizes; KID's subsets are fixed. MetricUnavailable below two images."""
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        features = {False: self._features(pred), True: self._features(target)}
        least = min(len(rows) for rows in features.values())
        if least < 2:
            raise MetricUnavailable(f"FID and KID need two images or more on both sides, got {least}")
        fid = FrechetInceptionDistance(feature=_Given())
        num_subsets = NUM_SUBSETS if least > SUBSET_SIZE else 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the memory of stored features
            kid = KernelInceptionDistance(feature=_Given(), subsets=num_subsets, subset_size=min(least, SUBSET_SIZE))
        for real, rows in features.items():
            fid.update(rows, real=real)
            kid.update(rows, real=real)
        with torch.random.fork_rng(devices=[]):  # torchmetrics draws subsets from the global generator
            torch.manual_seed(0)
            mean, std = kid.compute()
        return Distances(fid.compute().item(), mean.item(), std.item())

    def _features(self, images: Iterable[Tensor]) -> Tensor:
        return torch.cat([self.inception(image[None].to(self.device)).cpu() for image in images])


class _Given(nn.Module):
    """Placeholder for the network of torchmetrics: features are computed once for both distances."""

    num_features = NUM_FEATURES

    def forward(self, features: Tensor) -> Tensor:
        return features


LICENCE = "PolyForm Noncommercial 1.0.0 and S-Lab License 1.0: not for commercial use"


class NoReference:
    """Score images by the no-reference metrics of pyiqa in `names`.

    pyiqa downloads missing weights by several libraries; without `download`, Python sockets are blocked meanwhile.
    MetricUnavailable if pyiqa is missing, a name is unknown, or no metric can be built; `not_computed` holds the reason
    for each metric that could not be built.
    """

    def __init__(self, names: Sequence[str], device: torch.device | str = "cpu", *, download: bool = False) -> None:
        self._network = contextlib.nullcontext if download else offline
        with self._network():
            self._create(names, torch.device(device))

    def _create(self, names: Sequence[str], device: torch.device) -> None:
        try:
            import pyiqa  # type: ignore[import-not-found]
        except ImportError as error:
            raise MetricUnavailable(
                f"pyiqa is missing ({error}): pip install restore_diff[iqa]; its licence is {LICENCE}"
            ) from error
        known = pyiqa.list_models(metric_mode="NR")
        if unknown := [name for name in names if name not in known]:
            raise MetricUnavailable(f"{', '.join(unknown)}: not among pyiqa's no-reference metrics, {', '.join(known)}")
        self.version = str(pyiqa.__version__)
        self.not_computed: dict[str, str] = {}
        self._metrics: dict[str, Any] = {}
        for name in names:
            try:
                self._metrics[name] = pyiqa.create_metric(name, device=device)
            except Exception as error:  # downloads and weight files raise many types
                self.not_computed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        if not self._metrics:
            reasons = "; ".join(f"{name} not computed: {reason}" for name, reason in self.not_computed.items())
            raise MetricUnavailable(reasons)

    @property
    def lower_is_better(self) -> dict[str, bool]:
        """By name, for the computed metrics."""
        return {name: bool(metric.lower_better) for name, metric in self._metrics.items()}

    @torch.no_grad()
    def __call__(self, image: Tensor) -> dict[str, float]:
        """Score a uint8 (3, H, W) image; NaN and a warning where it is too small for a metric."""
        with self._network():
            return {name: self._score(name, image[None] / 255) for name in self._metrics}

    def _score(self, name: str, images: Tensor) -> float:
        try:
            return float(self._metrics[name](images))
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            logger.warning("%s of an image of %dx%d: %s", name, images.shape[-1], images.shape[-2], error)
            return math.nan


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Raise ConnectionError for connections by Python sockets inside the block; compiled libraries are not affected."""

    def refuse(self: socket.socket, address: object) -> NoReturn:
        raise ConnectionError("weights are missing, and nothing is downloaded without --download")

    with contextlib.ExitStack() as stack:
        for name in ("connect", "connect_ex"):  # deleting ours restores the inherited C method
            setattr(socket.socket, name, refuse)
            stack.callback(delattr, socket.socket, name)
        yield
