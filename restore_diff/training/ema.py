"""Averaged weights: what validation, test and restore use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Follows the weights of a model, which is on its device already: average += (1 - decay_n) (weight - average).

    Buffers are copied. decay_n = min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not dominated
    by its random start (the `num_updates` rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        """Same names as the model's state_dict."""
        parameters = {name for name, _ in model.named_parameters()}
        followed = model.state_dict()
        self._averages = [self.weights[name] for name in followed if name in parameters]
        self._parameters = [followed[name] for name in followed if name in parameters]
        self._copied = [(self.weights[name], followed[name]) for name in followed if name not in parameters]

    def decay_after(self, num_updates: int) -> float:
        """decay_n, for n >= 1 optimizer steps done."""
        return min(self.decay, (1 + num_updates) / (10 + num_updates))

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Take in the model's weights after `num_updates` optimizer steps, the last one included."""
        step = 1 - self.decay_after(num_updates)
        torch._foreach_lerp_(self._averages, self._parameters, step)  # pyright: ignore[reportPrivateImportUsage]
        for copy, buffer in self._copied:
            copy.copy_(buffer)

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Go on from saved averages. Raises ValueError where names or shapes differ."""
        _copy_into(self.weights, weights)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model with the averaged weights in place of its own, which come back on leaving."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        _copy_into(model.state_dict(), self.weights)
        try:
            yield model
        finally:
            _copy_into(model.state_dict(), own)


@torch.no_grad()
def _copy_into(targets: dict[str, Tensor], sources: dict[str, Tensor]) -> None:
    if targets.keys() != sources.keys():
        names = [name[:100] for name in sorted(targets.keys() ^ sources.keys())[:3]]
        raise ValueError(f"names of weights differ: {', '.join(names)}, ...")
    for name, target in targets.items():
        if target.shape != sources[name].shape:
            raise ValueError(f"{name}: shape {tuple(sources[name].shape)} where the model has {tuple(target.shape)}")
        target.copy_(sources[name])
