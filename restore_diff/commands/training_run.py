"""The story of a training run: what is found, the run itself, the scored test set."""

import argparse
import os
from itertools import islice
from pathlib import Path

import torch

from restore_diff import __version__, build, trained
from restore_diff.commands.console import complain, logging_to_console, say
from restore_diff.commands.errors import USER_ERRORS, is_out_of_memory
from restore_diff.commands.exit_codes import BAD_USAGE, OK, STOPPED
from restore_diff.commands.scoring import Choice, score_test_set, set_folder, tell, validation
from restore_diff.config import ExperimentConfig, to_dict, to_yaml
from restore_diff.data.loading import TrainingBatches
from restore_diff.data.pairs import PairList, shared_clean_images
from restore_diff.training.cost import measure_cost
from restore_diff.training.interruption import Interruption
from restore_diff.training.optimisation import Optimisation
from restore_diff.training.run_folder import RunFolder
from restore_diff.training.run_log import RunLog
from restore_diff.training.trainer import Trainer, TrainingInterrupted, TrainingStopped, Validate


def train(config: ExperimentConfig, args: argparse.Namespace, command: list[str]) -> int:
    """Train, then score the test set; return the exit code."""
    try:
        with logging_to_console():
            return _train(config, args, command)
    except (TrainingStopped, TrainingInterrupted) as error:
        complain("train.py", error)
        return error.exit_code
    except USER_ERRORS as error:
        complain("train.py", error)
        return BAD_USAGE
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        complain("train.py", "out of memory; lower training.batch_size, or raise training.num_micro_batches")
        return STOPPED


def _train(config: ExperimentConfig, args: argparse.Namespace, command: list[str]) -> int:
    device = build.select_device(args.device)
    training_pairs, validation_pairs = build.training_sets(config)
    test_pairs = build.test_set(config, config.data.test)
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

    with RunFolder(trained.RUNS / config.name) as run:
        if args.fresh and (previous := run.set_aside()):
            say(f"the earlier run of this name is kept in {previous}")
        with RunLog(run.path) as log:
            validate = validation(config, restorer, validation_pairs, log) if validation_pairs else None
            _fit(config, command, optimisation, batches, run, log, validate)
        _score(config, run.path, device, test_pairs)
    say(f"next    python restore.py -i your_photos -o restored --ckpt {run.path}")
    return OK


def _fit(
    config: ExperimentConfig,
    command: list[str],
    optimisation: Optimisation,
    batches: TrainingBatches,
    run: RunFolder,
    log: RunLog,
    validate: Validate | None,
) -> None:
    interruption = Interruption()
    experiment, start = to_dict(config), batches.iter_from
    trainer = Trainer(
        optimisation, start, config.training, experiment, run, log, interruption, validate, best_metric="psnr"
    )
    if (left := config.training.num_steps - trainer.step) > 0:
        say(_cost_line(config, optimisation, batches, left))
    run.record_start(to_yaml(config), command, optimisation.device)
    with interruption:  # before it nothing needs to be saved, after it all is: a signal then ends the command
        trainer.run()


def _score(config: ExperimentConfig, run: Path, device: torch.device, pairs: PairList) -> None:
    path, _, weights = trained.load_experiment(run)
    restorer, description = trained.trained_restorer(path, config, weights, device)
    say(description)
    folder = set_folder(run / "test", config.data.test)
    tell(score_test_set(config, restorer, pairs, folder, Choice()), folder)


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
