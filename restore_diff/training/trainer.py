"""The training loop, and training state to and from checkpoints."""

import hashlib
import json
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from restore_diff.checkpoint import (
    Best,
    Checkpoint,
    LossScale,
    NotFinite,
    Progress,
    load_checkpoint,
    mark_best,
    newest_kept,
    newest_valid,
    on_cpu,
    prune,
    save_checkpoint,
    tidy,
)
from restore_diff.distributed import OtherProcessFailed, TrainingInterrupted, TrainingStopped
from restore_diff.environment import versions
from restore_diff.settings import TrainingConfig
from restore_diff.training.faults import BROKEN, Inspection, Interruption, death_of_worker, defer_sigchld, undisturbed
from restore_diff.training.optimisation import (
    Optimisation,
    TrainingBatch,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
)
from restore_diff.training.run import (
    ConfigChanged,
    NullLog,
    RunFolder,
    RunLog,
    RunState,
    changed_keys,
    describe_changes,
    require_same_experiment,
)


def take_snapshot(optimisation: Optimisation, step: int, best: Best | None, config: dict[str, Any]) -> Checkpoint:
    """The state that the steps after `step` depend on. Tensors are not copied."""
    scaler = optimisation.scaler.state_dict()  # empty unless float16
    loss_scale = LossScale(scale=scaler["scale"], growth_tracker=scaler["_growth_tracker"]) if scaler else None
    totals = optimisation.meter.totals()
    return Checkpoint(
        progress=Progress(step=step, best=best, loss_scale=loss_scale, meter_totals=totals),
        config=config,
        versions=versions(),
        model=optimisation.model.state_dict(),
        ema=optimisation.ema.weights,
        optimizer=optimizer_tensors(optimisation.model, optimisation.optimizer),
    )


def digests(checkpoint: Checkpoint) -> dict[str, str]:
    """Hashes of the weights, their averages and the optimizer state."""
    parts = {"weights": checkpoint.model, "averages": checkpoint.ema, "optimizer": checkpoint.optimizer}
    return {name: _digest(on_cpu(tensors)) for name, tensors in parts.items()}


def restore_snapshot(optimisation: Optimisation, checkpoint: Checkpoint) -> None:
    """Restore the state of a checkpoint. Raises ConfigChanged if names, shapes or types differ."""
    _require_same_shapes(checkpoint.model, optimisation.model.state_dict())
    optimisation.model.load_state_dict(checkpoint.model)
    try:
        optimisation.ema.load(checkpoint.ema)
        load_optimizer_tensors(optimisation.model, optimisation.optimizer, checkpoint.optimizer)
    except ValueError as error:
        raise ConfigChanged(f"the checkpoint is not of this model: {error}") from error
    scale = checkpoint.progress.loss_scale
    if scale is not None and optimisation.scaler.is_enabled():
        saved = {"scale": scale.scale, "_growth_tracker": scale.growth_tracker}
        optimisation.scaler.load_state_dict(optimisation.scaler.state_dict() | saved)
    optimisation.meter.load(checkpoint.progress.meter_totals)


def _require_same_shapes(saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    common = saved.keys() & wanted.keys()
    reshaped = sorted(name for name in common if _kind(saved[name]) != _kind(wanted[name]))
    unknown, missing = sorted(saved.keys() - common), sorted(wanted.keys() - common)
    kinds = {"of another shape or type": reshaped, "not in the model": unknown, "not in the checkpoint": missing}
    if found := [f"{len(names)} {kind}, e.g. {names[0][:100]}" for kind, names in kinds.items() if names]:
        raise ConfigChanged(f"the checkpoint is not of this model of {len(wanted)} tensors: {'; '.join(found)}")


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} ".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# The loop: step, then log, validate or save at their intervals; resumed where it stopped.

Validate: TypeAlias = Callable[[nn.Module, int], dict[str, float]]
"""(the model with its averaged weights, steps done) -> scores by name, higher is better; the same on all processes."""

WORRYING_FALL = 3.0
"""Below the best score, in its unit: dB for PSNR."""


class Trainer:
    """A run: an optimisation that logs, validates and saves into a run folder, which the first process holds.

    A new trainer stands where the run folder's newest intact checkpoint stops, at step 0 if there is none; from there
    on it does bit for bit (on the CPU, with the same number of processes) what an uninterrupted run does.

    Raises ConfigChanged, which is also for a checkpoint that does not fit the model, and NoIntactCheckpoint.
    """

    def __init__(
        self,
        optimisation: Optimisation,
        batches_from: Callable[[int], Iterator[TrainingBatch]],
        config: TrainingConfig,
        experiment: dict[str, Any],
        run: RunFolder,
        log: RunLog | NullLog,
        interruption: Interruption,
        validate: Validate | None,
        best_metric: str,
        defaults: dict[str, Any] | None = None,
    ):
        """`batches_from(step)` yields the micro-batches of step `step` and later. `experiment` is the whole config,
        `defaults` has the values of keys that the config of an older checkpoint lacks."""
        self._optimisation, self._batches_from, self._config = optimisation, batches_from, config
        self._experiment = json.loads(json.dumps(experiment))
        self._run, self._log, self._interruption, self._defaults = run, log, interruption, defaults or {}
        self._validate, self._best_metric = validate, best_metric
        self._processes = optimisation.processes
        self._inspection = Inspection(optimisation, run, log.line)
        self._best: Best | None = None
        self.step = self._saved_step = self._resume()

    def run(self) -> int:
        """Train to the end and return the number of steps done.

        Raises TrainingStopped, TrainingInterrupted, OtherProcessFailed; log.txt and status.json record it.
        """
        try:
            with self._processes.together():
                if self.step < self._config.num_steps:
                    self._train()
                else:
                    self._log.line(f"already finished ({self.step}/{self._config.num_steps})")
                with self._writing():
                    self._write_status("finished")
        except BaseException as error:
            self._tell_end(error)
            if isinstance(error, TrainingInterrupted):
                self._processes.wait()  # torchrun ends all processes once one has left
            raise
        finally:
            with suppress(OSError):
                self._log.end()
        self._processes.wait()  # for the last checkpoint, which all processes may read
        return self.step

    def _train(self) -> None:
        with self._writing():
            self._write_status("running")
            self._log.begin(self.step, self._config.num_steps, self._config.batch_size)
        workers: list[BaseProcess] = []
        try:
            batches = self._batches_from(self.step)
            workers = multiprocessing.active_children()
            while self.step < self._config.num_steps:
                number = self._processes.agreed_signal(self._interruption.signal)
                if number is not None:
                    self._leave(number)
                micro_batches = list(islice(batches, self._config.num_micro_batches))
                with undisturbed():
                    self._advance(micro_batches)
        except (RuntimeError, *BROKEN) as error:
            self._stop_without_workers(error, workers)
            raise

    def _advance(self, micro_batches: list[TrainingBatch]) -> None:
        self._optimisation.advance(self.step, iter(micro_batches))
        self.step += 1
        self._inspection.remember(self.step, micro_batches)
        self._log.step_done()
        self._maintain()

    def _maintain(self) -> None:
        config = self._config
        logs, validates, saves = (
            self.step % every == 0 or self.step == config.num_steps
            for every in (config.log_every_steps, config.validate_every_steps, config.save_every_steps)
        )
        # Reading the guard waits for an accelerator, as logging and saving do; on a CPU it costs nothing.
        if self._optimisation.device.type == "cpu" or logs or validates or saves:
            self._inspection.require_finite(self.step)
        if logs:
            with self._writing():
                loss, gradient_norm = self._optimisation.meter.read()
                self._log.training(self.step, loss, learning_rate(config, self.step - 1), gradient_norm)
        with self._writing():
            improved = validates and self._score()
        if saves or improved:
            self._save()
        if logs or validates or saves:
            self._log.restart_clock(self.step)

    def _score(self) -> bool:
        """Validate the averaged weights; return whether they are the best so far."""
        if self._validate is None:
            return False
        model = self._optimisation.model
        with self._optimisation.ema.applied(model), torch.no_grad():
            model.eval()
            try:
                scores = self._validate(model, self.step)
            finally:
                model.train()
        self._log.validation(self.step, scores)
        if self._best_metric not in scores:
            raise ValueError(f"the best checkpoint goes by {self._best_metric}, validation gives {', '.join(scores)}")
        score = scores[self._best_metric]
        if self._best is not None and not score >= self._best.score - WORRYING_FALL:
            best = f"{self._best.score:.4g} at step {self._best.step}"
            self._log.line(f"warning: {self._best_metric} fell to {score:.4g} from {best}, which stays the best")
        if not math.isfinite(score) or (self._best is not None and score <= self._best.score):
            return False
        self._best = Best(step=self.step, metric=self._best_metric, score=score)
        return True

    def _save(self) -> None:
        self._inspection.require_finite(self.step)
        started = time.monotonic()
        checkpoint = take_snapshot(self._optimisation, self.step, self._best, self._experiment)
        if self._processes.num > 1:
            self._require_no_drift(digests(checkpoint))
        self._saved_step = self.step
        if not self._processes.is_first:
            return
        with self._writing():
            self._log.flush()
            save_checkpoint(self._run.checkpoints, checkpoint)
            mark_best(self._run.checkpoints, self._best)
            prune(self._run.checkpoints, self._config.num_checkpoints_kept, self._best.step if self._best else None)
            size, seconds = checkpoint.num_bytes / 1e6, time.monotonic() - started
            self._log.line(f"checkpoint {self.step} saved ({size:.1f} MB, {seconds:.1f} s)")
            self._write_status("running")

    def _require_no_drift(self, mine: dict[str, str]) -> None:
        """All processes do the same updates on the same bits: a difference is a fault that no loss would show."""
        everywhere = self._processes.gather(mine)
        drifted = [rank for rank, digest in enumerate(everywhere) if digest != everywhere[0]]
        if drifted:
            parts = [name for name in mine if any(digest[name] != everywhere[0][name] for digest in everywhere)]
            what = f"{', '.join(parts)} on rank {', '.join(map(str, drifted))} differ from those on rank 0"
            raise TrainingStopped(self.step, f"{what} after step {self.step}; {newest_kept(self._run.checkpoints)}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Inside, a full disk or a non-finite weight stops training; the last checkpoint stays as it is."""
        try:
            yield
        except (OSError, NotFinite) as error:
            raise TrainingStopped(self.step, f"{error}; {newest_kept(self._run.checkpoints)}") from error

    def _stop_without_workers(self, error: Exception, workers: list[BaseProcess]) -> None:
        """Raise TrainingStopped if the error is of a dead data worker, after saving the completed steps."""
        reason = death_of_worker(error, workers)
        if reason is None:
            return
        with defer_sigchld():
            for worker in workers:  # now, as a later death would interrupt the exit with a traceback
                worker.kill()
                worker.join()
            if self._processes.num == 1 and self.step > self._saved_step:  # other processes would not compare weights
                self._save()
        raise TrainingStopped(self.step, f"{reason}; {newest_kept(self._run.checkpoints)}") from error

    def _leave(self, number: signal.Signals) -> NoReturn:
        if self.step > self._saved_step:
            self._save()
        raise TrainingInterrupted(self.step, number)

    def _tell_end(self, error: BaseException) -> None:
        state = "preempted" if isinstance(error, TrainingInterrupted) else "failed"
        with suppress(OSError), defer_sigchld():
            if isinstance(error, TrainingInterrupted | TrainingStopped | OtherProcessFailed):
                self._log.note(str(error))
            self._write_status(state, str(error) or type(error).__name__)

    def _write_status(self, state: RunState, reason: str = "") -> None:
        if self._processes.is_first:
            self._run.write_status(state, self.step, reason)

    def _resume(self) -> int:
        """Load the newest intact checkpoint, and return its step."""
        folder, report = self._run.checkpoints, self._log.line
        checkpoint, step = self._newest(), 0
        if checkpoint is not None:
            changes = require_same_experiment(checkpoint.config, self._experiment, self._defaults)
            restore_snapshot(self._optimisation, checkpoint)
            step, best = checkpoint.progress.step, checkpoint.progress.best
            self._best = self._processes.gather(best if best and (folder / f"{best.step:08d}").is_dir() else None)[0]
            report(f"resumed from checkpoint {step:08d}" + (f"; changed: {changes}" if changes else ""))
            if differing := changed_keys(checkpoint.versions, versions()):
                changes = describe_changes(differing, checkpoint.versions, versions())
                report(f"note: last bits may differ from those of an uninterrupted run, because of {changes}")
        if self._processes.is_first:
            tidy(folder, step, report)
            mark_best(folder, self._best)
        return step

    def _newest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact for the first process, read by all processes."""
        folder = self._run.checkpoints
        mine = newest_valid(folder, load_checkpoint, self._log.line) if self._processes.is_first else None
        step = self._processes.gather(mine and mine.progress.step)[0]
        return mine if self._processes.is_first or step is None else load_checkpoint(folder / f"{step:08d}")
