"""The story of a training run: what is found, the run itself, the scored test set."""

import argparse
import os
import sys
from itertools import islice

import torch

from restore_diff import __version__, build
from restore_diff.commands.console import logging_to_console, say
from restore_diff.commands.errors import USER_ERRORS
from restore_diff.commands.scoring import Choice, score_test_set, tell, validation
from restore_diff.config import ExperimentConfig, to_dict, to_yaml
from restore_diff.data.loading import TrainingBatches
from restore_diff.data.pairs import PairList, shared_clean_images
from restore_diff.training.cost import measure_cost
from restore_diff.training.interruption import Interruption
from restore_diff.training.optimisation import Optimisation
from restore_diff.training.run_folder import RunFolder
from restore_diff.training.run_log import RunLog
from restore_diff.training.trainer import Trainer, TrainingInterrupted, TrainingStopped

OK, BAD_USAGE = 0, 2


def train(config: ExperimentConfig, args: argparse.Namespace, command: list[str]) -> int:
    """Train, then score the test set; return the exit code."""
    try:
        with logging_to_console(), Interruption() as interruption:
            return _train(config, args, command, interruption)
    except (TrainingStopped, TrainingInterrupted) as error:
        say(f"train.py: {error}", to=sys.stderr)
        return error.exit_code
    except USER_ERRORS as error:
        say(*(f"train.py: {line}" for line in str(error).splitlines()), to=sys.stderr)
        return BAD_USAGE


def _train(config: ExperimentConfig, args: argparse.Namespace, command: list[str], interruption: Interruption) -> int:
    device = build.select_device(args.device)
    training_pairs, validation_pairs = build.training_sets(config)
    test_pairs = build.test_set(config)
    build.protocols(config, test_pairs.protocols)  # a wrong name is told before the training, not after it
    batches = build.batches(config, training_pairs)
    model = build.network(config)
    optimisation = Optimisation(model, build.diffusion(config), config.training, config.seed, device)
    restorer = build.restorer(config, model, device, config.training.precision)

    say(f"restore_diff {__version__}  torch {torch.__version__}  {_machine(device)}")
    say(*_data_lines(config, training_pairs, validation_pairs, test_pairs, batches))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    say(f"model   {millions:.2f} M parameters, {config.diffusion.prediction} output")
    if args.dry_run:
        say(_cost_line(config, optimisation, batches, config.training.num_steps), "dry run: nothing was written")
        return OK

    with RunFolder(build.RUNS / config.name) as run:
        if args.fresh and (previous := run.set_aside()):
            say(f"the earlier run of this name is kept in {previous}")
        with RunLog(run.path) as log:
            validate = validation(config, restorer, validation_pairs, log) if validation_pairs else None
            trainer = Trainer(
                optimisation,
                batches.iter_from,
                config.training,
                to_dict(config),
                run,
                log,
                interruption,
                validate,
                best_metric="psnr",
            )
            if (left := config.training.num_steps - trainer.step) > 0:
                say(_cost_line(config, optimisation, batches, left))
            run.record_start(to_yaml(config), command, device)
            trainer.run()

        model = build.trained_network(config, build.load_experiment(run.path)[2], device)
        restorer = build.restorer(config, model, device, build.select_precision("auto", device))
        folder = run.path / "test" / test_pairs.name
        tell(score_test_set(config, restorer, test_pairs, folder, Choice()), folder)
    say(f"next    python restore.py -i your_photos -o restored --ckpt {run.path}")
    return OK


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"device {device} ({torch.cuda.get_device_name(device)})"
    note = "" if torch.cuda.is_available() or device.type == "mps" else ", no GPU found"
    return f"device {device} ({os.cpu_count()} cores{note})"


def _data_lines(
    config: ExperimentConfig,
    training: PairList,
    validation: PairList | None,
    test: PairList,
    batches: TrainingBatches,
) -> list[str]:
    held_out = f", {len(validation.pairs)} held out for validation" if validation else ""
    rendered = any(pair.degraded is None for pair in training.pairs)
    kind = f"photographs with rendered {config.data.weather}" if rendered else "pairs"
    cached = f"{batches.num_cached} of {batches.num_images} files in memory"
    lines = [f"data    {training.name}: {len(training.pairs)} {kind} to train on{held_out}; {cached}"]
    lines.append(f"test    {test.name}: {len(test.pairs)} to test on")
    lines += [f"note    {note}" for note in dict.fromkeys(training.notes + test.notes)]
    if shared := shared_clean_images(training, test):
        lines.append(f"WARNING {len(shared)} test images are also trained on: {', '.join(shared[:10])}")
    return lines


def _cost_line(config: ExperimentConfig, optimisation: Optimisation, batches: TrainingBatches, num_steps: int) -> str:
    micro_batches = islice(batches.iter_from(0), config.training.num_micro_batches)
    cost = measure_cost(optimisation, list(micro_batches))
    minutes, seconds = divmod(round(cost.seconds_per_step * num_steps), 60)
    hours, minutes = divmod(minutes, 60)
    size = f"batch {config.training.batch_size} of {config.data.crop_size_px} px"
    return (
        f"cost    {cost.seconds_per_step:.3f} s a step ({size}), {cost.memory_bytes / 1e9:.1f} GB; "
        f"about {hours}:{minutes:02d}:{seconds:02d} for {num_steps} steps"
    )
