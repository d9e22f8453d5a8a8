"""Implementation of train.py: data, the run itself, the scored test set."""

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms.functional import center_crop
from torchvision.utils import make_grid

from restore_diff import __version__, build, trained
from restore_diff.api import LoadedRestorer
from restore_diff.commands.console import (
    BAD_USAGE,
    OK,
    STOPPED,
    USER_ERRORS,
    complain,
    logging_to_console,
    printing,
    say,
)
from restore_diff.commands.scoring import Choice, score_test_set, set_folder, tell, validation
from restore_diff.config import ConfigError, ExperimentConfig, repeated_overrides, to_dict, to_yaml
from restore_diff.data.loading import TrainingBatches
from restore_diff.data.pairs import PairList, shared_clean_images
from restore_diff.diffusion.loss import GaussianDiffusion, draw_noise
from restore_diff.distributed import (
    ALONE,
    OtherProcessFailed,
    Processes,
    TrainingInterrupted,
    TrainingProcesses,
    TrainingStopped,
    joined,
)
from restore_diff.environment import is_out_of_memory
from restore_diff.labels import hints
from restore_diff.settings import DiffusionConfig
from restore_diff.training.faults import Interruption, measure_cost, peak_memory
from restore_diff.training.optimisation import Optimisation
from restore_diff.training.run import NullLog, RunFolder, RunLog
from restore_diff.training.trainer import Trainer, Validate

RECORD = "data.json"
EPSILON_SNR = "epsilon_snr"
LEVELS_SCORED = 8
NUM_SAMPLES_SHOWN = 20


def record_data(run: RunFolder, report: Callable[[str], None], batches: TrainingBatches) -> None:
    """Record number and order of the training pairs; report a change since the last start."""
    before: Any = {}
    with suppress(OSError, ValueError):  # the first start, or an edited file
        before = json.loads((run.path / RECORD).read_text())
    now: dict[str, object] = {"num_pairs": batches.order.num_pairs, "order": batches.order.fingerprint()}
    if isinstance(before, dict) and before.get("order", now["order"]) != now["order"]:
        counts = f"{before.get('num_pairs')} -> {now['num_pairs']} pairs"
        report(f"WARNING the training data changed since the last start ({counts}): their order is another one now")
    run.write_json(RECORD, now)


def train(config: ExperimentConfig, args: argparse.Namespace, command: list[str]) -> int:
    """Train, then score the test set, as one of the processes that torchrun started; return the exit code."""
    at_work: Processes = ALONE

    def started(processes: Processes) -> None:
        nonlocal at_work
        at_work = processes

    try:
        options = {"fresh": args.fresh, "dry_run": args.dry_run, "notes": repeated_overrides(args.overrides)}
        run_training(config, args.device, command, **options, on_start=started)
        return OK
    except (TrainingStopped, TrainingInterrupted, OtherProcessFailed) as error:
        if at_work.is_first:
            complain("train.py", error)
        return error.exit_code
    except USER_ERRORS as error:
        if at_work.is_first:
            complain("train.py", error)
        return BAD_USAGE
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        complain("train.py", _out_of_memory(config, at_work))
        return STOPPED


def run_training(
    config: ExperimentConfig,
    device: str,
    command: list[str],
    fresh: bool = False,
    dry_run: bool = False,
    notes: Sequence[str] = (),
    on_start: Callable[[Processes], None] = lambda processes: None,
) -> None:
    """Train in runs/NAME and score the test set, in this process or as one of those of torchrun.

    `dry_run`: build everything and print memory and time only. Raises UserError, TrainingStopped,
    TrainingInterrupted, OtherProcessFailed.
    """
    with logging_to_console(), joined() as started, printing(started.is_first):
        at = _device(device, started)
        _require_even_split(config, started.num)
        processes = TrainingProcesses(started.rank, started.num, at)
        on_start(processes)
        with processes.together():
            _train(config, fresh, dry_run, notes, command, processes, at)


def _train(
    config: ExperimentConfig,
    fresh: bool,
    dry_run: bool,
    notes: Sequence[str],
    command: list[str],
    processes: TrainingProcesses,
    device: torch.device,
) -> None:
    training_pairs, validation_pairs = build.training_sets(config)
    test_pairs = build.test_set(config, config.data.test) if build.is_conditional(config) else None
    build.protocols(config, test_pairs.protocols if test_pairs else ())  # so that a wrong name fails before training
    batches = build.batches(config, training_pairs, processes.rank, processes.num)
    model = trained.initial_network(config)
    diffusion, codec = build.diffusion(config), build.codec(config)
    with build.settings_of("training"):
        optimisation = Optimisation(model, diffusion, config.training, config.seed, device, processes, codec)
    restorer = build.restorer(config, model, device, config.training.precision)

    say(f"restore_diff {__version__}  torch {torch.__version__}  {_machine(device, processes.num)}")
    say(*_data_lines(config, training_pairs, validation_pairs, test_pairs, batches))
    say(*(f"note    {note}" for note in notes), _model_line(config, model))
    if dry_run:
        say(_cost_line(config, optimisation, batches, config.training.num_steps), "dry run: nothing was written")
        return

    run = RunFolder(trained.RUNS / config.name)
    with run if processes.is_first else nullcontext():
        if fresh and processes.is_first and (previous := run.set_aside()):
            say(f"the earlier run of this name is kept in {previous}")
        with RunLog(run.path) if processes.is_first else nullcontext(NullLog()) as log:
            validate = None
            if validation_pairs and test_pairs:
                validate = validation(config, restorer, validation_pairs, log, processes)
            elif validation_pairs:
                validate = sampling_validation(config, model, device, validation_pairs, log, processes)
            _fit(config, command, optimisation, batches, run, log, validate)
        if test_pairs is not None:
            _score(config, run.path, device, test_pairs, processes)
    say(_next_line(run, conditional=test_pairs is not None))


def _next_line(run: RunFolder, conditional: bool) -> str:
    use = "python restore.py -i your_photos -o restored" if conditional else "restore-diff sample -o samples.png"
    return f"next    {use} --ckpt {run.path}"


def _model_line(config: ExperimentConfig, model: trained.Network) -> str:
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"model   {millions:.2f} M parameters, {config.diffusion.prediction} output"


def sampling_validation(
    config: ExperimentConfig,
    model: trained.Network,
    device: torch.device,
    pairs: PairList,
    log: RunLog | NullLog,
    processes: Processes = ALONE,
) -> Validate:
    """Return a function that logs new images, with each label in turn, and scores the noise found in held-out images.

    `epsilon_snr` is -10 log10 of the mean squared error of epsilon, L_simple of Ho et al. (2020), eq. 14, in dB, over
    evenly spread t: 0 dB for an epsilon of 0. Images of an unconditional network have no right answer to compare with.
    """
    loaded = LoadedRestorer(config, model, device, "float32", None)
    labels = ([*config.model.labels[1:]] * NUM_SAMPLES_SHOWN)[:NUM_SAMPLES_SHOWN] if config.model.hint else None
    images, codec = build.images(config, pairs), build.codec(config)
    diffusion = GaussianDiffusion(build.schedule(config), DiffusionConfig(prediction=config.diffusion.prediction))
    levels = torch.arange(LEVELS_SCORED) * 2 + 1
    t = (levels * diffusion.schedule.num_timesteps // (2 * LEVELS_SCORED)).to(device)

    def error(index: int) -> float:
        clean = codec.encode(center_crop(images[index].clean, [config.data.crop_size_px] * 2)[None].to(device))
        clean = clean.expand(LEVELS_SCORED, -1, -1, -1)
        epsilon = draw_noise(clean, range(index * LEVELS_SCORED, (index + 1) * LEVELS_SCORED), config.seed)
        hint = {"weather": hints([pairs.pairs[index].weather], config.model.labels).to(device)}
        predictor = partial(model, **hint) if config.model.hint else model
        return diffusion.loss(predictor, clean, None, t, epsilon).mean().item()

    def validate(_: nn.Module, step: int) -> dict[str, float]:
        errors = processes.all_rows(lambda: [error(index) for index in processes.positions(len(images))])
        if processes.is_first:
            shown = loaded.sample(NUM_SAMPLES_SHOWN, label=labels)
            grid = make_grid(shown, nrow=NUM_SAMPLES_SHOWN // 2, padding=2, pad_value=1.0)
            log.image(step, grid, "new images")
        return {EPSILON_SNR: -10 * math.log10(sum(errors) / len(errors))}

    return validate


def _fit(
    config: ExperimentConfig,
    command: list[str],
    optimisation: Optimisation,
    batches: TrainingBatches,
    run: RunFolder,
    log: RunLog | NullLog,
    validate: Validate | None,
) -> None:
    interruption = Interruption(optimisation.processes)
    experiment, start = to_dict(config), batches.iter_from
    trainer = Trainer(
        optimisation,
        start,
        config.training,
        experiment,
        run,
        log,
        interruption,
        validate,
        best_metric="psnr" if build.is_conditional(config) else EPSILON_SNR,
        defaults=to_dict(ExperimentConfig()),
    )
    if (left := config.training.num_steps - trainer.step) > 0:
        say(_cost_line(config, optimisation, batches, left))
    if optimisation.processes.is_first:
        run.record_start(to_yaml(config), command, optimisation.device)
        record_data(run, log.line, batches)
    with interruption:  # outside, nothing needs saving: a signal ends the command
        trainer.run()


def _score(config: ExperimentConfig, run: Path, device: torch.device, pairs: PairList, processes: Processes) -> None:
    path, _, weights = trained.load_experiment(run)
    restorer, description = trained.trained_restorer(path, config, weights, device)
    say(description)
    folder = set_folder(run / "test", config.data.test)
    tell(score_test_set(config, restorer, description, pairs, folder, Choice(processes=processes)), folder)


def _device(name: str, processes: Processes) -> torch.device:
    """The device of this process. Raises DeviceError."""
    device = build.select_device(name)
    if processes.num == 1:
        return device
    if device.type == "mps" or device.index is not None:
        raise build.DeviceError(f"device {device}: several processes train on cuda, a GPU each, or on cpu")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda" and here > torch.cuda.device_count():
        raise build.DeviceError(
            f"{here} processes for {torch.cuda.device_count()} GPUs: start one for each, torchrun --nproc-per-node=gpu"
        )
    return device


def _require_even_split(config: ExperimentConfig, num_processes: int) -> None:
    """Raise ConfigError, with the nearest sizes, if the batch cannot be split evenly."""
    size, num_micro_batches = config.training.batch_size, config.training.num_micro_batches
    parts = num_processes * num_micro_batches
    if size % parts:
        below, above = size // parts * parts, (size // parts + 1) * parts
        split = f"{num_processes} processes x {num_micro_batches} micro batches"
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ConfigError([f"training.batch_size: {size} cannot be split evenly over {split}; nearest: {nearest}"])


def _out_of_memory(config: ExperimentConfig, processes: Processes) -> str:
    at_once = max(1, config.training.batch_size // config.training.num_micro_batches // processes.num)
    crops = f"{at_once} crops of {config.data.crop_size_px} px at once"
    used = peak_memory(torch.device("cuda" if torch.cuda.is_initialized() else "cpu")) / 1e9
    advice = "lower training.batch_size or data.crop_size_px, or raise training.num_micro_batches"
    return f"out of memory with {crops} ({used:.1f} GB used); {advice}"


def _machine(device: torch.device, num_processes: int) -> str:
    several = f"{num_processes} processes, " if num_processes > 1 else ""
    if device.type == "cuda":
        return f"device {device} ({several}{torch.cuda.get_device_name(device)})"
    note = "" if torch.cuda.is_available() or device.type == "mps" else ", no GPU found"
    return f"device {device} ({several}{os.cpu_count()} cores{note})"


def _data_lines(
    config: ExperimentConfig,
    training: PairList,
    validation: PairList | None,
    test: PairList | None,
    batches: TrainingBatches,
) -> list[str]:
    held_out = f", {len(validation.pairs)} held out for validation" if validation else ""
    drawn = config.data.weather if isinstance(config.data.weather, str) else " or ".join(config.data.weather)
    rendered = {pair.weather or drawn for pair in training.pairs if pair.degraded is None} if test else set()
    kind = f"photographs with rendered {', '.join(sorted(rendered))}" if rendered else "pairs"
    cached = f"{batches.num_cached} of {batches.num_images} files in memory"
    lines = [f"data    {training.name}: {len(training.pairs)} {kind} to train on{held_out}; {cached}"]
    if test is None:
        return [*lines, "test    none: the network takes no degraded image"]
    lines.append(f"test    {test.name}: {len(test.pairs)} to test on")
    lines += [f"note    {note}" for note in dict.fromkeys(training.notes + test.notes)]
    if shared := shared_clean_images(training, test):
        lines.append(f"WARNING {len(shared)} test images are also trained on: {', '.join(shared[:10])}")
    return lines


def _cost_line(config: ExperimentConfig, optimisation: Optimisation, batches: TrainingBatches, num_steps: int) -> str:
    cost = measure_cost(optimisation, batches.of_step(0))
    minutes, seconds = divmod(round(cost.seconds_per_step * num_steps), 60)
    hours, minutes = divmod(minutes, 60)
    size = f"batch {config.training.batch_size} of {config.data.crop_size_px} px"
    return (
        f"cost    {cost.seconds_per_step:.3f} s a step ({size}), {cost.memory_bytes / 1e9:.1f} GB; "
        f"about {hours}:{minutes:02d}:{seconds:02d} for {num_steps} steps"
    )
