"""Muon (Jordan et al., 2024): momentum made orthogonal for the matrices inside a network, AdamW for all else."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW

MOMENTUM = 0.95
NUM_ITERATIONS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the quintic that Jordan et al. iterate: it takes singular values to between 0.7 and 1.2, not to 1, but quickly."""
UPDATE_RMS = 0.2
"""Of AdamW's updates in units of the rate, so that one rate does for both; Liu et al. (2025, arXiv 2502.16982)."""
ENDS = ("conv_in.", "conv_out.", "weather_embedding.", "weather_head.")
"""Layers that read or write images and hints: no matrices between features."""


def is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon is for this parameter: features to features, and not each by itself as a depthwise convolution."""
    return parameter.ndim >= 2 and parameter.shape[1] > 1 and not name.startswith(ENDS)


class Muon(AdamW):
    """Muon for the inner matrices of a model, fused AdamW for its other parameters, both at the same rate.

    A convolution's weight is the matrix (out, in * height * width). As the fused AdamW does, it leaves parameters and
    state alone where `found_inf` is 1, without waiting for the device. `dtype` is that of the iterations. step() uses
    the gradients of the matrices up.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float, dtype: torch.dtype):
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        matrices = [parameter for name, parameter in named.items() if is_inner_matrix(name, parameter)]
        others = [parameter for name, parameter in named.items() if not is_inner_matrix(name, parameter)]
        groups = [{"params": others, "orthogonal": False}, {"params": matrices, "orthogonal": True}]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, fused=True)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters."""
        found_inf = getattr(self, "found_inf", None)
        for group in self.param_groups:
            if not group["orthogonal"]:
                continue
            for matrices in _by_shape(group["params"]):
                done = torch.ones((), device=matrices[0].device) if found_inf is None else 1 - found_inf
                self._update(matrices, done, group["lr"], group["weight_decay"])
                for matrix in matrices:
                    matrix.grad = None  # AdamW passes over these
        super().step(closure)

    def _update(self, matrices: list[nn.Parameter], done: Tensor, lr: float, weight_decay: float) -> None:
        """Update matrices of one shape. `done`: 0 to leave all as it is, else 1."""
        directions = []
        for matrix in matrices:
            assert matrix.grad is not None
            state = self.state[matrix]
            if not state:
                state.update(step=torch.zeros((), device=matrix.device), exp_avg=torch.zeros_like(matrix))
            state["step"] += done
            gradient = torch.where(done > 0, matrix.grad, 0)
            state["exp_avg"].lerp_(gradient, (1 - MOMENTUM) * done)
            directions.append(gradient.lerp(state["exp_avg"], MOMENTUM).flatten(1))  # Nesterov's
        rows, columns = directions[0].shape
        length = lr * UPDATE_RMS * max(rows, columns) ** 0.5 * done
        for matrix, direction in zip(matrices, orthogonalised(torch.stack(directions).to(self._dtype)), strict=True):
            matrix.mul_(1 - lr * weight_decay * done)
            matrix.sub_(direction.to(matrix.dtype).reshape(matrix.shape) * length)


def orthogonalised(matrices: Tensor) -> Tensor:
    """(number, rows, columns): the same singular vectors, with singular values near 1, by a Newton-Schulz iteration."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if is_tall else matrices
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        square = wide @ wide.mT
        square = torch.baddbmm(square, square, square, beta=b, alpha=c)
        wide = torch.baddbmm(wide, square, wide, beta=a)
    return wide.mT if is_tall else wide


def _by_shape(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Those that have a gradient. Equal shapes are iterated on together, as small matrices leave a device idle."""
    found: dict[torch.Size, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            found.setdefault(parameter.shape, []).append(parameter)
    return list(found.values())
