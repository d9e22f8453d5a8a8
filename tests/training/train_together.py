"""One of several processes that train together, for test_distributed.py: FOLDER. Prints one JSON line per scenario."""

import json
import math
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from toy_run import Batch, toy_batches, toy_config, toy_optimisation, train

from restore_diff.distributed import OtherProcessFailed, TrainingInterrupted, TrainingProcesses, TrainingStopped
from restore_diff.settings import TrainingConfig
from restore_diff.training.faults import Interruption

STOPPED_AT, NUM_STEPS, BAD_STEP = 13, 30, 6


def config(**changes: Any) -> TrainingConfig:
    """No step is a whole number of epochs; what a process computes at once is half of its part of a batch."""
    calm = {"num_steps": NUM_STEPS, "learning_rate": 1e-3, "learning_rate_decay": "constant", "save_every_steps": 1000}
    return toy_config(**(calm | {"num_micro_batches": 2, "validate_every_steps": 1000} | changes))


def alone(folder: Path, num_steps: int = NUM_STEPS) -> None:
    """What the processes must do together."""
    short = config(num_steps=num_steps)
    train(folder, short, optimisation=toy_optimisation(short, dropout=0.0))


class Together:
    """The scenarios, each on all processes."""

    def __init__(self, folder: Path, processes: TrainingProcesses):
        self.folder, self.processes = folder, processes

    def run(self, name: str, dropout: float = 0.0, **changes: Any) -> torch.nn.Module:
        chosen = changes.pop("config", config())
        optimisation = toy_optimisation(chosen, dropout, self.processes)
        changes = {"batches_from": toy_batches(chosen, self.processes), "validate": None} | changes
        if "spoil" in changes:
            changes["batches_from"] = self.spoiled(changes.pop("spoil"), optimisation.model, chosen)
        with Interruption(self.processes) as interruption:
            train(self.folder / name, chosen, self.processes, optimisation=optimisation,
                  interruption=interruption, **changes)  # fmt: skip
        return optimisation.model

    def spoiled(self, spoil: Callable, model: torch.nn.Module, chosen: TrainingConfig) -> Callable:
        """Batches of which the second process gets a spoiled one."""

        def batches_from(step: int) -> Iterator[Batch]:
            for part, batch in enumerate(toy_batches(chosen, self.processes)(step), step * chosen.num_micro_batches):
                at_step, first = divmod(part, chosen.num_micro_batches)
                due = self.processes.rank == 1 and not first
                yield spoil(at_step, batch, model) if due else batch

        return batches_from

    def uninterrupted(self) -> str:
        self.run("two")
        return ""

    def interrupted(self) -> str:
        """The second process alone is signalled, while it waits for the data of a step."""

        def raise_signal(step: int, batch: Batch, _: object) -> Batch:
            if step == STOPPED_AT - 1:
                signal.raise_signal(signal.SIGTERM)
            return batch

        try:
            self.run("parts", spoil=raise_signal)
        except TrainingInterrupted as stop:
            return str(stop)
        return ""

    def resumed(self) -> str:
        self.run("parts")
        return ""

    def resumed_from_one(self) -> str:
        self.run("one_then_two")
        return ""

    def with_dropout(self) -> str:
        """Every process drops others: otherwise the masks of samples would repeat over the batch."""
        torch.manual_seed(0)
        chosen = config(num_steps=1)
        optimisation = toy_optimisation(chosen, 0.5, self.processes)
        optimisation.advance(0, toy_batches(chosen, self.processes)(0))
        return str(torch.rand(3).tolist())

    def not_a_number(self) -> str:
        def poison(step: int, batch: Batch, _: object) -> Batch:
            return batch._replace(clean=batch.clean * math.nan) if step == BAD_STEP else batch

        return self.stopped("nan", spoil=poison)

    def overflow(self) -> str:
        """The gradient of the second process alone overflows, once: all leave the update out, and scale alike."""
        chosen = config(num_steps=4, precision="float16")
        optimisation = toy_optimisation(chosen, 0.0, self.processes)
        calls = iter(range(100))
        if self.processes.rank == 1:
            bias = optimisation.model.conv_out.bias
            bias.register_hook(lambda gradient: gradient * math.inf if next(calls) == 2 else gradient)
        batches = toy_batches(chosen, self.processes)(0)
        for step in range(4):
            optimisation.advance(step, batches)
        return f"{optimisation.scaler.get_scale()} {optimisation.guard.overflows()} {optimisation.guard.found()}"

    def drift(self) -> str:
        def nudge(step: int, batch: Batch, model: torch.nn.Module) -> Batch:
            if step == 4:
                with torch.no_grad():
                    next(model.parameters()).view(-1)[0] += 1e-7
            return batch

        return self.stopped("drift", spoil=nudge, config=config(save_every_steps=3))

    def damaged_image(self) -> str:
        def refuse(step: int, batch: Batch, _: object) -> Batch:
            if step == 3:
                raise ValueError("photo_3.png: damaged")
            return batch

        with self.processes.together():
            return self.stopped("damaged", spoil=refuse)

    def stopped(self, name: str, **changes: Any) -> str:
        try:
            self.run(name, **changes)
        except (TrainingStopped, OtherProcessFailed, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return ""


def main() -> None:
    distributed.init_process_group("gloo")
    processes = TrainingProcesses(distributed.get_rank(), distributed.get_world_size())
    together = Together(Path(sys.argv[1]), processes)
    scenarios = [
        together.uninterrupted, together.interrupted, together.resumed, together.resumed_from_one,
        together.with_dropout, together.not_a_number, together.overflow, together.drift, together.damaged_image,
    ]  # fmt: skip
    for scenario in scenarios:
        together.processes = TrainingProcesses(processes.rank, processes.num)  # as in a command of its own
        print(json.dumps([scenario.__name__, scenario()]), flush=True)


if __name__ == "__main__":
    main()
