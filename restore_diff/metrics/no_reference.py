"""Scores of images without ground truth (NIQE, MUSIQ, BRISQUE, ...) by pyiqa: optional, and not for commercial use.

They reward sharpness and noise, and depend on who wrote them: compare only what one version of one tool computed.
"""

import contextlib
import logging
import math
import socket
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from restore_diff.metrics.weights import MetricUnavailable

logger = logging.getLogger(__name__)

LICENCE = "PolyForm Noncommercial 1.0.0 and S-Lab License 1.0: not for commercial use"


class NoReference:
    """Scores an image by each of pyiqa's no-reference metrics in `names`.

    pyiqa fetches weights that are missing, from several hosts by several libraries: only where `download` says so;
    otherwise no Python code of this process reaches a network while pyiqa is at work.

    MetricUnavailable where pyiqa is missing or does not know a name, and where none of the metrics can be built, as
    without their weights; where some can, `not_computed` says why the others cannot.
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
            except Exception as error:  # whatever a download or a file of weights provokes
                self.not_computed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        if not self._metrics:
            reasons = "; ".join(f"{name} not computed: {reason}" for name, reason in self.not_computed.items())
            raise MetricUnavailable(reasons)

    @property
    def lower_is_better(self) -> dict[str, bool]:
        """By name, of those that are computed."""
        return {name: bool(metric.lower_better) for name, metric in self._metrics.items()}

    @torch.no_grad()
    def __call__(self, image: Tensor) -> dict[str, float]:
        """The scores of a uint8 (3, H, W) image; NaN, and a warning, where a metric cannot take it: it is too small."""
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
    """Let no Python code of this process connect to another machine inside the block: ConnectionError.

    What opens sockets without Python's, as a compiled library may, is not held back.
    """

    def refuse(self: socket.socket, address: object) -> NoReturn:
        raise ConnectionError("weights are missing, and nothing is downloaded without --download")

    with contextlib.ExitStack() as stack:
        for name in ("connect", "connect_ex"):  # inherited from a class in C, so that deleting ours brings them back
            setattr(socket.socket, name, refuse)
            stack.callback(delattr, socket.socket, name)
        yield
