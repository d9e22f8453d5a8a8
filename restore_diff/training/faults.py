"""Faults of a training run: signals, dead data workers, non-finite values; and the measured cost of a step."""

import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from statistics import median
from types import FrameType
from typing import NamedTuple, Self

import torch

from restore_diff.checkpoint import newest_kept
from restore_diff.distributed import ALONE, TrainingProcesses, TrainingStopped
from restore_diff.training.optimisation import MAX_OVERFLOWS_IN_A_ROW, NonFinite, Optimisation, TrainingBatch
from restore_diff.training.run import RunFolder

# SIGTERM and Ctrl-C, handled between two steps.

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Within `with`, the first SIGTERM or SIGINT only sets `.signal`; a second one ends the process at once.

    Enter it in the main thread, around the training alone: before it nothing is to be saved, after it all is. Not
    entered, it never interrupts.

    Among several processes a second signal changes nothing: torchrun sends one of its own to all when it was signalled,
    or when the first process has left, and it ends those that have not stopped after 30 s.
    """

    def __init__(self, processes: TrainingProcesses = ALONE) -> None:
        self.signal: signal.Signals | None = None
        self._processes = processes

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        alone = self._processes.num == 1
        for other in SIGNALS:
            signal.signal(other, signal.SIG_DFL if alone else signal.SIG_IGN)
        if self._processes.is_first:
            insist = "; once more leaves at once" if alone else ""
            # a signal can interrupt print(), but not os.write
            os.write(2, f"\n{self.signal.name}: finishing this step, then saving{insist}\n".encode())


# Dead data workers: reported in one line with advice, never in the middle of an update.

BROKEN = (ConnectionError, EOFError)
"""Errors of reading from a worker that has just died, before torch reports its death."""

MOMENT_S = 5.0
"""How long the end of the process may follow the error."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, the death of a data worker is only recorded; leaving raises the error of torch.

    torch raises it wherever the main thread stands, be it between the weights' update and that of their average.
    """
    noted: list[int] = []
    with _handling_deaths(lambda number, _: noted.append(number)) as raise_death:
        yield
    if noted and callable(raise_death):
        raise_death(noted[0], None)


@contextmanager
def defer_sigchld() -> Iterator[None]:
    """Ignore further deaths: out of memory, several workers die, and each error would interrupt the saving."""
    with _handling_deaths(lambda number, _: None):
        yield


@contextmanager
def _handling_deaths(handler: Callable[[int, FrameType | None], object]) -> Iterator[object]:
    """Replace the SIGCHLD handler of torch by `handler`, and return the former."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield None  # torch has none on Windows and in threads
        return
    previous = signal.signal(signal.SIGCHLD, handler)
    try:
        yield previous
    finally:
        signal.signal(signal.SIGCHLD, previous)


def death_of_worker(error: Exception, workers: Sequence[BaseProcess]) -> str | None:
    """Advice for an error in reading data; None if all workers live and answer, and shared memory was sufficient."""
    text = str(error)
    if isinstance(error, BROKEN) or "DataLoader worker (pid" in text:
        # How it ended is in torch's own words only where these were first to come.
        with defer_sigchld():
            over = wait([worker.sentinel for worker in workers], MOMENT_S)
            for worker in workers:
                worker.join(None if worker.sentinel in over else 0)
        ends = {worker.exitcode for worker in workers if worker.exitcode}
        if not ends and isinstance(error, BROKEN):
            return None
        if -signal.SIGBUS not in ends:
            how = "killed" if -signal.SIGKILL in ends else "exited unexpectedly"
            return f"a data worker died ({how}; often out of memory): lower data.num_workers or training.batch_size"
    elif timed_out := re.search(r"DataLoader timed out after (\d+)", text):
        return f"the data workers gave no batch for {timed_out[1]} s: check the disk that holds the images"
    elif not re.search("shared memory|</?torch_", text):
        return None
    advice = "raise its limit, e.g. docker run --shm-size=8g, or lower data.num_workers"
    return f"a data worker had no shared memory left: {advice}"


# Periodic check that all steps were finite; names the samples of the first that was not.


class Contents(NamedTuple):
    """The samples of one process in one step."""

    positions: list[int]
    names: list[str]


class Inspection:
    """Keeps the samples of each step between two checks. All processes check after the same steps."""

    def __init__(self, optimisation: Optimisation, run: RunFolder, report: Callable[[str], None]):
        self._optimisation, self._run, self._report = optimisation, run, report
        self._contents: dict[int, Contents] = {}
        self._num_overflows = 0

    def remember(self, step: int, batches: Sequence[TrainingBatch]) -> None:
        """Record the samples of step `step`."""
        positions, names = ([k for b in batches for k in b.positions], [name for b in batches for name in b.names])
        self._contents[step] = Contents(positions, names)

    def require_finite(self, step: int) -> None:
        """Raise TrainingStopped, on all processes, if a step up to `step` was not finite. Waits for the device."""
        guard = self._optimisation.guard
        found = guard.found()
        if found is not None:
            raise TrainingStopped(found.step, f"{self._describe(found)}; {newest_kept(self._run.checkpoints)}")
        in_a_row, total = guard.overflows()
        if total > self._num_overflows:
            self._report(f"float16 overflow: {total - self._num_overflows} update(s) left out up to step {step}")
        if in_a_row > MAX_OVERFLOWS_IN_A_ROW:
            advice = "set training.precision=bfloat16, or lower training.learning_rate"
            kept = newest_kept(self._run.checkpoints)
            raise TrainingStopped(step, f"float16 overflows {in_a_row} steps in a row: {advice}; {kept}")
        self._num_overflows = total
        self._contents.clear()

    def _describe(self, found: NonFinite) -> str:
        """One line for the error message; the details go to a file."""
        name = f"nonfinite_{found.step:06d}.json"
        processes = self._optimisation.processes
        parts = processes.gather(self._contents[found.step])
        bad = [parts[rank] for rank in found.ranks or range(processes.num)]
        names = [name for part in bad for name in part.names]
        if processes.is_first:
            values: dict[str, object] = {
                "step": found.step,
                "loss": str(found.loss),
                "gradient_norm": str(found.gradient_norm),
                "weights_finite": all(bool(w.isfinite().all()) for w in self._optimisation.model.parameters()),
                "ranks": found.ranks,
                "positions": [position for part in bad for position in part.positions],
                "names": names,
            }
            self._run.write_json(name, values)
        several = processes.num > 1 and found.ranks
        where = f" on rank {', '.join(map(str, found.ranks))}" if several else ""
        return f"{found}{where}, on {', '.join(dict.fromkeys(names[:3]))}, ... (all in {name})"


# Cost of a training step, measured before the run without changing its state.


class Cost(NamedTuple):
    seconds_per_step: float
    memory_bytes: int
    """Peak memory with the moments of AdamW: of the accelerator, or on a CPU of this process."""


def measure_cost(optimisation: Optimisation, batches: Sequence[TrainingBatch], num_repeats: int = 3) -> Cost:
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
    """Peak memory in bytes: of the accelerator, or on a CPU of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
