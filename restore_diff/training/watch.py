"""What a step's loss and gradient tell, gathered on the device so that no step waits for it."""

from typing import NamedTuple

import torch
from torch import Tensor

MAX_OVERFLOWS_IN_A_ROW = 20


class NonFinite(NamedTuple):
    step: int
    loss: float
    gradient_norm: float
    ranks: list[int]
    """Of the processes whose part of the loss was not finite; empty where only the gradient was not."""

    def __str__(self) -> str:
        name, value = ("gradient norm", self.gradient_norm) if abs(self.loss) < float("inf") else ("loss", self.loss)
        return f"{name} is {value} at step {self.step}"


class FiniteGuard:
    """Says of each update, in a tensor, whether to skip it, and remembers why.

    After the first loss or gradient that is not finite, every update is skipped: the weights stay those before it until
    somebody looks. Only with float16 is a gradient that overflows ordinary: that one update is skipped.
    """

    def __init__(self, device: torch.device, overflow_is_ordinary: bool, num_processes: int):
        self._overflow_is_ordinary = overflow_is_ordinary
        self._step = torch.full((), -1, dtype=torch.int64, device=device)
        self._values = torch.zeros(2, device=device)  # loss, gradient norm
        self._losses = torch.zeros(num_processes, device=device)
        self._overflows_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self._overflows = torch.zeros((), dtype=torch.int64, device=device)

    def skip(self, step: int, losses: Tensor, gradient_norm: Tensor) -> Tensor:
        """1.0 where the update that makes step `step` must not be done, else 0.0; float32 scalar on the device.

        `losses` are the parts that the processes computed, by rank.
        """
        values = torch.stack([losses.sum(), gradient_norm])
        loss_is_finite, gradient_is_finite = values.isfinite()
        broken = ~loss_is_finite if self._overflow_is_ordinary else ~(loss_is_finite & gradient_is_finite)
        first = broken & (self._step < 0)
        self._step = torch.where(first, step, self._step)
        self._values = torch.where(first, values, self._values)
        self._losses = torch.where(first, losses, self._losses)

        overflow = ~gradient_is_finite
        self._overflows_in_a_row = (self._overflows_in_a_row + 1) * overflow
        self._overflows += overflow
        return ((self._step >= 0) | overflow).to(values.dtype)

    def found(self) -> NonFinite | None:
        """The first step that was not finite. Waits for the device."""
        step = int(self._step)
        if step < 0:
            return None
        ranks = (~self._losses.isfinite()).nonzero().flatten().tolist()
        loss, gradient_norm = self._values.tolist()
        return NonFinite(step, loss, gradient_norm, ranks)

    def overflows(self) -> tuple[int, int]:
        """Updates skipped for a float16 overflow: in a row, and in all. Waits for the device."""
        return int(self._overflows_in_a_row), int(self._overflows)


class Meter:
    """Means of loss and gradient norm over the updates since they were last read."""

    def __init__(self, device: torch.device):
        self._totals = torch.zeros(3, device=device)  # loss, gradient norm, number of updates

    def add(self, loss: Tensor, gradient_norm: Tensor, skipped: Tensor) -> None:
        values = torch.stack([loss, gradient_norm, torch.ones_like(loss)])
        self._totals += torch.where(skipped > 0, 0, values)

    def read(self) -> tuple[float, float]:
        """Mean loss and mean gradient norm, nan where no update was done; starts anew. Waits for the device."""
        loss, gradient_norm, num_updates = self._totals.tolist()
        self._totals.zero_()
        return (loss / num_updates, gradient_norm / num_updates) if num_updates else (float("nan"), float("nan"))

    def totals(self) -> tuple[float, float, float]:
        """What a resumed run needs to log the same means. Waits for the device."""
        loss, gradient_norm, num_updates = self._totals.tolist()
        return loss, gradient_norm, num_updates

    def load(self, totals: tuple[float, float, float]) -> None:
        self._totals.copy_(torch.tensor(totals))
