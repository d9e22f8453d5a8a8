"""Looks from time to time whether the steps were finite, and names what the first that was not was computed on."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from restore_diff.training.checkpoint_folder import newest_kept
from restore_diff.training.optimisation import Optimisation, TrainingBatch
from restore_diff.training.run_folder import RunFolder
from restore_diff.training.stops import TrainingStopped
from restore_diff.training.watch import MAX_OVERFLOWS_IN_A_ROW, NonFinite


class Contents(NamedTuple):
    """What a process computed its part of a step on."""

    positions: list[int]
    names: list[str]


class Inspection:
    """Between two looks it remembers the samples of each step. All processes look after the same steps."""

    def __init__(self, optimisation: Optimisation, run: RunFolder, report: Callable[[str], None]):
        self._optimisation, self._run, self._report = optimisation, run, report
        self._contents: dict[int, Contents] = {}
        self._num_overflows = 0

    def remember(self, step: int, batches: Sequence[TrainingBatch]) -> None:
        """What step `step` was computed on."""
        positions, names = ([k for b in batches for k in b.positions], [name for b in batches for name in b.names])
        self._contents[step] = Contents(positions, names)

    def require_finite(self, step: int) -> None:
        """Raise TrainingStopped, on all processes, where a step up to `step` was not finite. Waits for the device."""
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
        """One line; all of it goes to a file."""
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
