"""Train a network whose states do not fit one GPU: FSDP2 shards weights, gradients, averages and moments.

torchrun --standalone --nproc-per-node=2 examples/train_sharded.py --cfg derain.yaml --cfg sizes/large.yaml

A plain loop with the batches, noise levels, noise, loss and rates of train.py, without validation and test: score the
final runs/NAME/weights.safetensors with test.py --ckpt. The same command resumes from the newest checkpoint in
runs/NAME/sharded/, on any number of processes that divides the batch; a signal ends it without saving.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from sharded_checkpoints import ShardedCheckpoints
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from restore_diff import build, trained
from restore_diff.checkpoint import save_weights
from restore_diff.commands.console import BAD_USAGE, OK, USER_ERRORS, complain, device, logging_to_console, printing
from restore_diff.config import ConfigError, ExperimentConfig, load_config, to_dict, to_yaml
from restore_diff.data.loading import Batch
from restore_diff.diffusion.loss import draw_noise, draw_timesteps
from restore_diff.distributed import PATIENCE, OtherProcessFailed, TrainingProcesses, TrainingStopped, joined
from restore_diff.models.layers import ResidualBlock, SelfAttention
from restore_diff.randomness import mix
from restore_diff.tensors import to_model_range
from restore_diff.training.optimisation import (
    ExponentialMovingAverage,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
)
from restore_diff.training.run import NullLog, RunFolder, RunLog

MOMENTS = ("exp_avg", "exp_avg_sq")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--cfg", action="append", required=True, metavar="FILE", help="as for train.py")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override the files")
    parser.add_argument("--fresh", action="store_true", help="start a new run; an earlier run of this name is renamed")
    parser.add_argument("--device", type=device, default="auto", metavar="auto|cpu|cuda")
    args = parser.parse_intermixed_args()
    is_first = True
    try:
        config = load_config(args.cfg, args.overrides)
        with logging_to_console(), joined() as started, printing(started.is_first):
            place = _device(args.device, config, started.num)
            processes = TrainingProcesses(started.rank, started.num, place)
            is_first = processes.is_first  # the first process reports the errors of all
            with processes.together():
                train(config, args.fresh, place, processes)
        return OK
    except (TrainingStopped, OtherProcessFailed, *USER_ERRORS) as error:
        if is_first:
            complain("train_sharded.py", error)
        return getattr(error, "exit_code", BAD_USAGE)


def train(config: ExperimentConfig, fresh: bool, place: torch.device, processes: TrainingProcesses) -> None:
    """Train from the newest checkpoint to the last step and write the weights file."""
    settings = config.training
    pairs, _ = build.training_sets(config)
    with build.settings_of("training"):
        batches = build.batches(config, pairs, processes.rank, processes.num)
    run = RunFolder(trained.RUNS / config.name)
    with run if processes.is_first else nullcontext():
        if processes.is_first and fresh:
            run.set_aside()
        with RunLog(run.path) if processes.is_first else nullcontext(NullLog()) as log:
            checkpoints = ShardedCheckpoints(run.path / "sharded", config, processes)
            training = ShardedTraining(config, place, processes, checkpoints)
            start = training.resume(log)
            if processes.is_first:
                run.record_start(to_yaml(config), sys.argv, place)
            log.begin(start, settings.num_steps, settings.batch_size)
            samples = batches.iter_from(start)
            for step in range(start, settings.num_steps):
                loss, gradient_norm = training.advance(step, list(islice(samples, settings.num_micro_batches)))
                log.step_done()
                is_last = step + 1 == settings.num_steps
                if is_last or (step + 1) % settings.log_every_steps == 0:
                    log.training(step + 1, loss, learning_rate(settings, step), gradient_norm)
                if is_last or (step + 1) % settings.save_every_steps == 0:
                    training.save(step + 1)
            log.end()
        averages = training.whole_averages()
        if processes.is_first:
            save_weights(run.path / "weights.safetensors", averages, to_dict(config), max(start, settings.num_steps))
        processes.wait()  # torchrun ends all processes after the first exit


class ShardedTraining:
    """This process's part of weights, averages and moments, and the steps on all parts together."""

    def __init__(
        self,
        config: ExperimentConfig,
        place: torch.device,
        processes: TrainingProcesses,
        checkpoints: ShardedCheckpoints,
    ):
        self._config, self._place, self._processes, self._checkpoints = config, place, processes, checkpoints
        self._diffusion = build.diffusion(config)
        self._model = sharded(build.network(config), place).train()
        self._ema = ExponentialMovingAverage(self._model, config.training.ema_decay)
        settings = config.training
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def advance(self, num_steps_done: int, batches: Sequence[Batch]) -> tuple[float, float]:
        """Take one optimizer step; return loss and gradient norm. Raises TrainingStopped if one is not finite."""
        settings = self._config.training
        torch.manual_seed(mix(self._config.seed, "dropout", num_steps_done, self._processes.rank))
        self._optimizer.zero_grad()
        mine = torch.zeros((), device=self._place)
        for batch in batches:
            part = self._loss(num_steps_done, batch)
            (part * self._processes.num).backward()  # FSDP2 averages over processes; the sum is needed
            mine += part.detach()
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), settings.max_gradient_norm)
        loss, gradient_norm = float(self._processes.all_losses(mine).sum()), float(whole(norm))
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            values = f"loss {loss}, gradient norm {gradient_norm} at step {num_steps_done + 1}"
            raise TrainingStopped(num_steps_done + 1, f"{values}; {self._checkpoints.kept()}")
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(settings, num_steps_done)
        self._optimizer.step()
        self._ema.update(num_steps_done + 1)
        return loss, gradient_norm

    def _loss(self, num_steps_done: int, batch: Batch) -> Tensor:
        """Return these samples' contribution to the mean loss of the global batch."""
        config, total = self._config, self._config.training.batch_size
        assert batch.degraded is not None
        both = (images.to(self._place, memory_format=torch.channels_last) for images in (batch.clean, batch.degraded))
        clean, degraded = (to_model_range(each) for each in both)
        first, num = batch.positions[0] - num_steps_done * total, len(batch.positions)
        num_timesteps = self._diffusion.schedule.num_timesteps
        t = draw_timesteps(config.diffusion.timesteps, first, num, total, num_timesteps, config.seed, num_steps_done)
        epsilon = draw_noise(clean, batch.positions, config.seed)
        with torch.autocast(self._place.type, torch.bfloat16, enabled=config.training.precision == "bfloat16"):
            return self._diffusion.loss(self._model, clean, degraded, t.to(self._place), epsilon).sum() / total

    def save(self, step: int) -> None:
        """Raises TrainingStopped."""
        self._checkpoints.save(step, self._tensors())

    def resume(self, log: RunLog | NullLog) -> int:
        """Load the newest complete checkpoint and return its step, 0 without one. Raises ConfigChanged."""
        step, changes = self._checkpoints.newest(log)
        if step:
            shards = dict(self._model.named_parameters())
            start = {f"{name}/{key}": torch.zeros_like(part) for name, part in shards.items() for key in MOMENTS}
            start |= {f"{name}/step": torch.tensor(float(step)) for name in shards}
            load_optimizer_tensors(self._model, self._optimizer, start)
            self._checkpoints.load(step, self._tensors())
            log.line(f"resumed from checkpoint {step:08d}" + (f"; changed: {changes}" if changes else ""))
        self._checkpoints.tidy(step, log)
        return step

    def _tensors(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint, without the optimizer's step counters, which equal the step."""
        moments = optimizer_tensors(self._model, self._optimizer)
        groups = {"model": self._model.state_dict(), "ema": self._ema.weights, "optimizer": moments}
        named = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
        return {name: tensor for name, tensor in named.items() if not name.endswith("/step")}

    def whole_averages(self) -> dict[str, Tensor]:
        """Gather the averaged weights one by one on the CPU of the first process; empty on the others."""
        gathered = ((name, whole(part)) for name, part in self._ema.weights.items())
        return {name: tensor.cpu() for name, tensor in gathered if self._processes.is_first}


def sharded(model: nn.Module, place: torch.device) -> nn.Module:
    """Shard each weight over the processes and move the network to the device block by block."""
    group: Any = distributed.new_group(backend="nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    mesh = DeviceMesh.from_group(group, place.type)
    # Not UpBlock: it removes skips from its caller's list, and FSDP2 would pass a copy.
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock | SelfAttention)]
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh)
    return model


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor from all processes; all must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _device(name: str, config: ExperimentConfig, num_processes: int) -> torch.device:
    """Raises DeviceError, ConfigError."""
    place = build.select_device(name)
    if num_processes == 1 or place.type == "mps" or place.index is not None:
        raise build.DeviceError("needs several processes, started with torchrun, on cpu or on cuda with a GPU each")
    if config.training.precision == "float16" or config.training.compile or config.training.optimizer == "muon":
        raise ConfigError(["training: sharded training does not support float16, compile and muon"])
    if not config.model.condition_channels:
        raise ConfigError(["model.condition_channels: sharded training needs a degraded image"])
    if config.model.hint:
        raise ConfigError(["model.hint: sharded training does not support weather labels"])
    return place


if __name__ == "__main__":  # data workers may import this file
    raise SystemExit(main())
