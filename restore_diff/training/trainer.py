"""Training: step, maybe log, validate, save; resumed where it stopped, stopped before harm is done."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeAlias

import torch
from torch import nn

from restore_diff.provenance import versions
from restore_diff.training.changes import changed_keys, describe_changes, require_same_experiment
from restore_diff.training.checkpoint import NotFinite, load_checkpoint, save_checkpoint
from restore_diff.training.checkpoint_folder import list_checkpoints, mark_best, newest_valid, prune, tidy
from restore_diff.training.checkpoint_state import Best
from restore_diff.training.config import TrainingConfig
from restore_diff.training.interruption import Interruption
from restore_diff.training.optimisation import Optimisation, TrainingBatch, learning_rate
from restore_diff.training.run_folder import RunFolder
from restore_diff.training.run_log import RunLog
from restore_diff.training.snapshot import restore_snapshot, take_snapshot
from restore_diff.training.watch import MAX_OVERFLOWS_IN_A_ROW

Validate: TypeAlias = Callable[[nn.Module, int], dict[str, float]]
"""(the model with its averaged weights, steps done) -> scores by name, higher is better."""


class TrainingStopped(RuntimeError):
    """Training cannot go on; the checkpoints are as they were. `step` is the step that failed."""

    exit_code = 4

    def __init__(self, step: int, reason: str):
        super().__init__(reason)
        self.step, self.reason = step, reason


class TrainingInterrupted(RuntimeError):
    """Somebody asked training to stop, and it is saved: the same command goes on after `step`."""

    def __init__(self, step: int, number: signal.Signals):
        super().__init__(f"stopped by {number.name}, " + (f"saved step {step}" if step else "before the first step"))
        self.step, self.exit_code = step, 128 + number


class Trainer:
    """A run: an optimisation that logs, validates and saves into a run folder, which this process holds.

    A new trainer stands where the run folder's newest intact checkpoint stops, at step 0 if there is none; from there
    on it does bit for bit (on the CPU) what an uninterrupted run does.

    Raises ConfigChanged, NoIntactCheckpoint, or ValueError where the checkpoint does not fit the model.
    """

    def __init__(
        self,
        optimisation: Optimisation,
        batches_from: Callable[[int], Iterator[TrainingBatch]],
        config: TrainingConfig,
        experiment: dict[str, Any],
        run: RunFolder,
        log: RunLog,
        interruption: Interruption,
        validate: Validate | None,
        best_metric: str,
    ):
        """`batches_from(step)` yields the micro-batches of step `step` and later. `experiment` is the whole config."""
        self._optimisation, self._batches_from, self._config = optimisation, batches_from, config
        self._experiment = json.loads(json.dumps(experiment))
        self._run, self._log, self._interruption = run, log, interruption
        self._validate, self._best_metric = validate, best_metric
        self._best: Best | None = None
        self._contents: dict[int, tuple[list[int], list[str]]] = {}  # of the steps not looked at yet
        self._num_overflows = 0
        self.step = self._saved_step = self._resume()

    def run(self) -> int:
        """Train to the end and return the number of steps done.

        Raises TrainingStopped, TrainingInterrupted; log.txt and status.json tell it too.
        """
        try:
            if self.step < self._config.num_steps:
                self._train()
            else:
                self._log.line(f"already finished ({self.step}/{self._config.num_steps})")
            with self._writing():
                self._run.write_status("finished", self.step)
        except BaseException as error:
            self._tell_end(error)
            raise
        finally:
            with suppress(OSError):
                self._log.end()
        return self.step

    def _train(self) -> None:
        with self._writing():
            self._run.write_status("running", self.step)
            self._log.begin(self.step, self._config.num_steps, self._config.batch_size)
        batches = self._batches_from(self.step)
        while self.step < self._config.num_steps:
            if self._interruption.signal is not None:
                self._leave(self._interruption.signal)
            used = self._optimisation.advance(self.step, batches)
            self.step += 1
            self._contents[self.step] = [k for b in used for k in b.positions], [n for b in used for n in b.names]
            self._log.step_done()
            self._maintain()

    def _maintain(self) -> None:
        config = self._config
        logs, validates, saves = (
            self.step % every == 0 or self.step == config.num_steps
            for every in (config.log_every_steps, config.validate_every_steps, config.save_every_steps)
        )
        # Looking at the guard waits for an accelerator, as logging and saving do; on the CPU it is free.
        if self._optimisation.device.type == "cpu" or logs or validates or saves:
            self._require_finite_steps()
        if logs:
            with self._writing():
                loss, gradient_norm = self._optimisation.meter.read()
                self._log.training(self.step, loss, learning_rate(config, self.step - 1), gradient_norm)
        improved = validates and self._score()
        if saves or improved:
            self._save()
        if logs or validates or saves:
            self._log.restart_clock(self.step)

    def _score(self) -> bool:
        """Validate the averaged weights, and say whether they are the best so far."""
        if self._validate is None:
            return False
        model = self._optimisation.model
        with self._optimisation.ema.applied(model), torch.no_grad():
            model.eval()
            try:
                scores = self._validate(model, self.step)
            finally:
                model.train()
        with self._writing():
            self._log.validation(self.step, scores)
        if self._best_metric not in scores:
            raise ValueError(f"the best checkpoint goes by {self._best_metric}, validation gives {', '.join(scores)}")
        score = scores[self._best_metric]
        if not math.isfinite(score) or (self._best is not None and score <= self._best.score):
            return False
        self._best = Best(step=self.step, metric=self._best_metric, score=score)
        return True

    def _save(self) -> None:
        self._require_finite_steps()
        started = time.monotonic()
        checkpoint = take_snapshot(self._optimisation, self.step, self._best, self._experiment)
        with self._writing():
            self._log.flush()
            save_checkpoint(self._run.checkpoints, checkpoint)
            mark_best(self._run.checkpoints, self._best)
            prune(self._run.checkpoints, self._config.num_checkpoints_kept, self._best.step if self._best else None)
            self._saved_step = self.step
            size, seconds = checkpoint.num_bytes / 1e6, time.monotonic() - started
            self._log.line(f"checkpoint {self.step} saved ({size:.1f} MB, {seconds:.1f} s)")
            self._run.write_status("running", self.step)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A full disk, or a weight that is not finite, stops training and leaves the last checkpoint as it is."""
        try:
            yield
        except (OSError, NotFinite) as error:
            raise TrainingStopped(self.step, f"{error}; {self._kept()}") from error

    def _require_finite_steps(self) -> None:
        guard = self._optimisation.guard
        found = guard.found()
        if found is not None:
            name = f"nonfinite_{found.step:06d}.json"
            positions, names = self._contents[found.step]
            weights_finite = all(bool(weight.isfinite().all()) for weight in self._optimisation.model.parameters())
            values = {"step": found.step, "loss": str(found.loss), "gradient_norm": str(found.gradient_norm)}
            self._run.write_json(
                name, values | {"weights_finite": weights_finite, "positions": positions, "names": names}
            )
            few = ", ".join(dict.fromkeys(names[:3]))
            raise TrainingStopped(found.step, f"{found}, on {few}, ... (all in {name}); {self._kept()}")
        in_a_row, total = guard.overflows()
        if total > self._num_overflows:
            self._log.line(f"float16 overflow: {total - self._num_overflows} update(s) left out up to step {self.step}")
        if in_a_row > MAX_OVERFLOWS_IN_A_ROW:
            advice = "set training.precision=bfloat16, or lower training.learning_rate"
            raise TrainingStopped(self.step, f"float16 overflows {in_a_row} steps in a row: {advice}; {self._kept()}")
        self._num_overflows = total
        self._contents.clear()

    def _kept(self) -> str:
        newest = list_checkpoints(self._run.checkpoints)[-1:]
        return f"checkpoint {newest[0].name} kept" if newest else "no checkpoint yet"

    def _leave(self, number: signal.Signals) -> NoReturn:
        if self.step > self._saved_step:
            self._save()
        raise TrainingInterrupted(self.step, number)

    def _tell_end(self, error: BaseException) -> None:
        state = "preempted" if isinstance(error, TrainingInterrupted) else "failed"
        with suppress(OSError):
            if isinstance(error, TrainingInterrupted | TrainingStopped):
                self._log.note(str(error))
            self._run.write_status(state, self.step, str(error) or type(error).__name__)

    def _resume(self) -> int:
        """Load the newest intact checkpoint, and return its step."""
        folder, report = self._run.checkpoints, self._log.line
        checkpoint = newest_valid(folder, load_checkpoint, report)
        if checkpoint is None:
            tidy(folder, 0, report)
            return 0
        changes = require_same_experiment(checkpoint.config, self._experiment)
        restore_snapshot(self._optimisation, checkpoint)
        step, best = checkpoint.progress.step, checkpoint.progress.best
        tidy(folder, step, report)
        self._best = best if best and (folder / f"{best.step:08d}").is_dir() else None
        mark_best(folder, self._best)
        report(f"resumed from checkpoint {step:08d}" + (f"; changed: {changes}" if changes else ""))
        if differing := changed_keys(checkpoint.versions, versions()):
            changes = describe_changes(differing, checkpoint.versions, versions())
            report(f"note: last bits may differ from those of an uninterrupted run, because of {changes}")
        return step
