"""What a training step costs, measured before the run without changing anything of it."""

import resource
import sys
import time
from statistics import median
from typing import NamedTuple

import torch

from restore_diff.training.optimisation import Optimisation, TrainingBatch


class Cost(NamedTuple):
    seconds_per_step: float
    memory_bytes: int
    """The most in use, AdamW's moments included: on an accelerator, of its memory; on the CPU, of this process."""


def measure_cost(optimisation: Optimisation, batches: list[TrainingBatch], num_repeats: int = 3) -> Cost:
    """Compute the gradients of one step's micro `batches`, `num_repeats` times after a warm-up, and drop them."""
    device = optimisation.device
    seconds = []
    for _ in range(num_repeats + 1):
        started = time.perf_counter()
        optimisation.add_gradients(0, batches)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
        optimisation.optimizer.zero_grad(set_to_none=True)
    moments = 0 if optimisation.optimizer.state else 2 * sum(p.nbytes for p in optimisation.model.parameters())
    return Cost(median(seconds[1:]), peak_memory(device) + moments)


def peak_memory(device: torch.device) -> int:
    """Bytes, the most so far: on an accelerator, of its memory; on the CPU, of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
