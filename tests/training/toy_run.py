"""A whole run at tiny size."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from restore_diff.diffusion.loss import GaussianDiffusion
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.distributed import ALONE, Processes
from restore_diff.models.unet import UNet
from restore_diff.randomness import generator
from restore_diff.settings import DiffusionConfig, NetworkConfig, ScheduleConfig, TrainingConfig
from restore_diff.training.faults import Interruption
from restore_diff.training.optimisation import Optimisation
from restore_diff.training.run import NullLog, RunFolder, RunLog
from restore_diff.training.trainer import Trainer

torch.set_num_threads(1)  # the same number of threads, the same bits
SEED = 3
NUM_IMAGES = 5


class Batch(NamedTuple):
    clean: Tensor
    degraded: Tensor
    positions: list[int]
    names: list[str]
    weathers: list[str | None]


def toy_config(**changes: Any) -> TrainingConfig:
    small = {"num_steps": 8, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 3, "ema_decay": 0.9}
    often = {"log_every_steps": 2, "validate_every_steps": 4, "save_every_steps": 3}
    return TrainingConfig(**(small | often | changes))


def toy_batches(config: TrainingConfig, processes: Processes = ALONE) -> Callable[[int], Iterator[Batch]]:
    """Sample k is image k mod NUM_IMAGES, whatever the step: no step is a whole number of epochs."""
    size = config.batch_size // config.num_micro_batches // processes.num

    def batches_from(step: int) -> Iterator[Batch]:
        for part in itertools.count(step * config.num_micro_batches):
            k = (part * processes.num + processes.rank) * size
            positions = list(range(k, k + size))
            images = [torch.rand(3, 8, 8, generator=generator(0, "image", p % NUM_IMAGES)) for p in positions]
            clean = torch.stack(images)
            names, weathers = [f"photo_{p % NUM_IMAGES}" for p in positions], [None, "haze"] * len(positions)
            yield Batch(clean, (clean + 0.2).clamp(0, 1), positions, names, weathers[: len(positions)])

    return batches_from


def toy_optimisation(
    config: TrainingConfig,
    dropout: float = 0.2,
    processes: Processes = ALONE,
    hint: bool = False,
    recognise: bool = False,
) -> Optimisation:
    torch.manual_seed(SEED)
    small = {"base_channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1, "num_groups": 4}
    small |= {
        "attention_levels": (),
        "mid_attention": False,
        "head_channels": 8,
        "dropout": dropout,
        "hint": hint or recognise,
    }
    small |= {"recognise": recognise}
    model = UNet(NetworkConfig(**small))
    diffusion = GaussianDiffusion(NoiseSchedule(ScheduleConfig()), DiffusionConfig(prediction="residual"))
    return Optimisation(model, diffusion, config, SEED, torch.device("cpu"), processes)


def rising_score(model: torch.nn.Module, step: int) -> dict[str, float]:
    """A number that depends on every weight, and another that rises up to step 4."""
    with torch.no_grad():
        size = sum(weight.square().sum().item() for weight in model.parameters())
    return {"size": size, "psnr": 30.0 - abs(step - 4)}


def toy_trainer(run: RunFolder, log: RunLog | NullLog, config: TrainingConfig, **changes: Any) -> Trainer:
    parts = {
        "optimisation": toy_optimisation(config),
        "batches_from": toy_batches(config),
        "config": config,
        "experiment": {"seed": SEED, "training": {"num_steps": config.num_steps}},
        "interruption": Interruption(),
        "validate": rising_score,
        "best_metric": "psnr",
    }
    return Trainer(run=run, log=log, **(parts | changes))


def train(folder: Path, config: TrainingConfig, processes: Processes = ALONE, **changes: Any) -> Trainer:
    """Run to the end, or to whatever stops it."""
    run, first = RunFolder(folder), processes.is_first
    with run if first else nullcontext(), RunLog(folder) if first else nullcontext(NullLog()) as log:
        trainer = toy_trainer(run, log, config, **changes)
        trainer.run()
    return trainer
