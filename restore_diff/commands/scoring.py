"""Implementation of test.py and of restore_diff.evaluate; `score_test_set` and `validation` also serve train.py."""

import argparse
import hashlib
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.transforms.functional import center_crop
from torchvision.utils import make_grid
from tqdm import tqdm

from restore_diff import build, trained
from restore_diff.commands.console import (
    BAD_USAGE,
    METRICS,
    OK,
    SOME_FAILED,
    STOPPED,
    USER_ERRORS,
    complain,
    logging_to_console,
    printing,
    say,
)
from restore_diff.config import ExperimentConfig, config_from_dict
from restore_diff.data.images import write_image
from restore_diff.data.names import CLEAN_FOLDERS, DEGRADED_FOLDERS, DataError
from restore_diff.data.pairs import Pair, PairList
from restore_diff.distributed import ALONE, Processes, joined
from restore_diff.environment import is_out_of_memory
from restore_diff.evaluation.evaluator import Evaluator, OnImage, PairDataset, Row, Scorer, quantize
from restore_diff.evaluation.folders import (
    no_reference_table,
    pair_folders,
    score_distributions,
    score_folders,
    score_images,
    write_no_reference,
)
from restore_diff.evaluation.page import PAGE, write_page, write_sweep
from restore_diff.evaluation.pictures import choose_examples, draw_panel, show, sweep_table
from restore_diff.evaluation.report import (
    Report,
    Scores,
    compare,
    comparison_table,
    console_table,
    metrics_of,
    scores_of,
    summarise,
)
from restore_diff.metrics.protocols import PROTOCOLS
from restore_diff.registry import load_plugins
from restore_diff.restoration.restorer import Restorer
from restore_diff.restoration.tiling import crop_to, pad_to, round_up
from restore_diff.training.run import NullLog, RunLog

NUM_PANEL_ROWS = 4
PANEL_PX = 256
PICTURE = "before_after.png"
MAX_NAME = 40
"""Longest name of a report folder."""
VALIDATION_METRICS = ("psnr", "ssim")


class Choice(NamedTuple):
    """Scoring options that are not in the config."""

    metrics: Sequence[str] = METRICS
    seeds: Sequence[int] = (0,)
    """Samples per image; their scores are averaged."""
    limit: int | None = None
    """Keep the first images only."""
    save_images: bool = False
    lpips_weights: Path | None = None
    """None: those in the cache."""
    download: bool = False
    processes: Processes = ALONE
    """Where several processes share the pairs, all have the whole result."""


def set_folder(parent: Path, source: str) -> Path:
    """Return the report folder of a test set in `parent`.

    Its name is that of the card, or the path below the current folder, or the last part of another path and a short
    hash, since sets in two places may have one name. FOLDER/input:FOLDER/target has the name of FOLDER.
    """
    absolute = (os.path.abspath(Path(part).expanduser()) for part in source.split(":"))  # noqa: PTH100  keeps links
    paths = list(map(Path, absolute))
    if len(paths) == 2 and paths[0].parent == paths[1].parent and _are_sides(*paths):
        paths = [paths[0].parent]
    here, text = Path.cwd(), ""
    if all(path.is_relative_to(here) for path in paths):
        text = "_".join(str(path.relative_to(here)) for path in paths)
    if not 0 < len(text) <= MAX_NAME:
        text = f"{paths[0].name[:MAX_NAME]}-{hashlib.sha256(os.fsencode(':'.join(map(str, paths)))).hexdigest()[:4]}"
    return parent / (re.sub(r"[^\w-]+", "_", text).strip("_") or "here")


def _are_sides(degraded: Path, clean: Path) -> bool:
    return degraded.name.lower() in DEGRADED_FOLDERS and clean.name.lower() in CLEAN_FOLDERS


def evaluate(
    config: ExperimentConfig,
    restorer: Restorer,
    pairs: PairList,
    choice: Choice,
    description: str | None = None,
    on_image: OnImage | None = None,
) -> Scores:
    """Restore and score pairs in memory; nothing is written. test.py uses this function.

    Protocols are those of the config, else rgb and those of the data set. `description` of the restorer goes into the
    report. ConfigError for unknown protocols or unusable weights of LPIPS.
    """
    names = build.protocols(config, pairs.protocols)
    lpips = build.lpips(config, choice.lpips_weights, choice.download) if "lpips" in choice.metrics else None
    scorer = build.scorer(names, lpips, choice.metrics)
    images = build.images(config, pairs)
    dataset = Subset(images, range(min(choice.limit or len(images), len(images))))
    evaluator = Evaluator(restorer.restore, scorer, restorer.device)
    rows = evaluator.evaluate(dataset, choice.seeds, on_image, choice.processes)
    return scores_of(Report(pairs.name, rows, names, lpips, description))


def score_test_set(
    config: ExperimentConfig, restorer: Restorer, description: str, pairs: PairList, folder: Path, choice: Choice
) -> Report:
    """Restore and score every pair; the first process writes per_image.csv, summary.json, tables and pictures."""
    processes = choice.processes
    num_images = min(choice.limit or len(pairs.pairs), len(pairs.pairs))
    total = len(processes.positions(num_images)) * len(choice.seeds)
    with tqdm(total=total, unit="image", desc=pairs.name, disable=None if processes.is_first else True) as bar:

        def on_image(row: Row, restored: Tensor) -> None:
            if choice.save_images:
                seed = f"_seed{row.seed}" if len(choice.seeds) > 1 else ""
                path = folder / "images" / f"{row.name}{seed}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, restored)
            bar.update()

        report = evaluate(config, restorer, pairs, choice, description, on_image).report
    if processes.is_first:
        again = Evaluator(restorer.restore, Scorer(()), restorer.device)
        _write(report, folder, build.images(config, pairs), again.restored)
    return report


def _write(report: Report, folder: Path, dataset: PairDataset, restored: Callable[[Pair, int], Tensor | None]) -> None:
    """Write the files of a report, and restore the best, middle and worst images again for its pictures."""
    report.write(folder)
    (folder / PICTURE).unlink(missing_ok=True)
    measure = next((metric.column for metric in metrics_of(report) if not metric.column.startswith("lpips")), None)
    examples = choose_examples(report.rows, measure) if measure else []
    with tqdm(examples, unit="image", desc="pictures", disable=None) as bar:
        shown = [show(example, dataset, restored) for example in bar]
    if shown:
        draw_panel(folder / PICTURE, shown)
    write_page(folder, report, shown)


def tell(report: Report, folder: Path) -> None:
    """Print the table and the paths of the files."""
    say(*console_table(report).splitlines(), f"wrote {folder}/: per_image.csv, summary.json, table.md, table.tex")
    picture = f", {PICTURE}" if (folder / PICTURE).exists() else ""
    say(f"look at {folder / PAGE}{picture}")


def validation(
    config: ExperimentConfig, restorer: Restorer, pairs: PairList, log: RunLog | NullLog, processes: Processes = ALONE
) -> Callable[[nn.Module, int], dict[str, float]]:
    """Return a function that scores the validation pairs as test.py does and logs a panel of the first four.

    `restorer` must hold the model in training. The panel shows pairs of the first process.
    """
    evaluator = Evaluator(restorer.restore, Scorer(("rgb",)), restorer.device)
    dataset = build.images(config, pairs)
    quiet = None if processes.is_first else True

    def validate(_: nn.Module, step: int) -> dict[str, float]:
        """Return means by metric; NaN where no pair has a score."""
        pictures: list[Tensor] = []
        total = len(processes.positions(len(dataset)))
        with tqdm(total=total, unit="image", desc="validation", leave=False, disable=quiet) as bar:

            def on_image(_: Row, restored: Tensor) -> None:
                pictures.append(restored)
                bar.update()

            rows = evaluator.evaluate(dataset, on_image=on_image, processes=processes)
        shown = zip(processes.positions(len(dataset))[:NUM_PANEL_ROWS], pictures, strict=False)
        if processes.is_first:
            panel = _panel([(dataset[index], picture) for index, picture in shown])
            log.image(step, panel, "degraded | restored | clean")
        summary = summarise(rows)
        means = {name: summary[f"{name}_rgb"].mean for name in VALIDATION_METRICS}
        return {name: math.nan if mean is None else mean for name, mean in means.items()}

    return validate


def _panel(shown: Sequence[tuple[Pair, Tensor]]) -> Tensor:
    """Grid of degraded | restored | clean, center-cropped to a common size."""
    rows = [(pair.degraded, restored, pair.clean) for pair, restored in shown if pair.degraded is not None]
    size = [min(PANEL_PX, *(row[0].shape[axis] for row in rows)) for axis in (1, 2)]
    return make_grid([center_crop(image, size) for row in rows for image in row], nrow=3, padding=4, pad_value=1.0)


def test(args: argparse.Namespace) -> int:
    """Run test.py with parsed arguments; return the exit code."""
    try:
        with logging_to_console(), joined() as processes, printing(processes.is_first):
            if args.compare:
                return _compare_files(*args.compare)
            if args.nr:
                return _score_without_reference(args, processes)
            return _score_finished(args, processes) if args.pred else _score_model(args, processes)
    except USER_ERRORS as error:
        complain("test.py", error)
        return BAD_USAGE
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        complain("test.py", "out of memory; use tiles, e.g. --tile 256")
        return STOPPED


def _score_model(args: argparse.Namespace, processes: Processes) -> int:
    """Score a checkpoint on each test set, at each number of steps."""
    load_plugins(map(str, args.plugin))
    path, config, weights = trained.load_experiment(args.ckpt)
    config = _overridden(config, args)
    sources = [str(source) for source in args.data or [config.data.test]]
    sets = [build.test_set(config, source, args.crop_to_min) for source in sources]
    swept = [build.with_overrides(config, sampler__num_steps=num_steps) for num_steps in args.sweep_steps]
    device = build.select_device(args.device)

    weather = None if args.weather == "auto" else args.weather
    metrics = args.metrics or METRICS
    choice = Choice(
        metrics, range(args.seeds), args.limit, args.save_images, args.lpips_weights, args.download, processes
    )
    nonfinite: list[str] = []
    for source, pairs in zip(sources, sets, strict=True):
        say(*(f"note    {note}" for note in pairs.notes))
        if processes.is_first:
            say(*codec_line(config, pairs, args.limit, device))
        folder = set_folder(args.out or _reports_of(path), source)
        reports: dict[int, Report] = {}
        for stepped in swept or [config]:
            restorer, description = trained.trained_restorer(path, stepped, weights, device, args.dtype, weather)
            say(description)
            num_steps = stepped.sampler.num_steps
            of_steps = folder / f"steps_{num_steps}" if swept else folder
            reports[num_steps] = score_test_set(stepped, restorer, description, pairs, of_steps, choice)
            tell(reports[num_steps], of_steps)
            nonfinite += reports[num_steps].nonfinite
        if swept and processes.is_first:
            say(*sweep_table(reports).splitlines(), write_sweep(folder, reports))
    return _conclude(nonfinite, processes)


def codec_line(config: ExperimentConfig, pairs: PairList, limit: int | None, device: torch.device) -> list[str]:
    """Return a line with the mean PSNR of the codec's reconstruction of the clean images; none for pixels themselves.

    It bounds what a network on these latents can restore.
    """
    if config.codec.name == "identity":
        return []
    codec, images = build.codec(config), build.images(config, pairs)
    names = build.protocols(config, pairs.protocols)
    scores: dict[str, list[float]] = {name: [] for name in names}
    for index in range(min(limit or len(images), len(images))):
        clean = images[index].clean[None].to(device)
        height, width = clean.shape[-2:]
        padded = pad_to(clean, round_up(height, codec.downscale), round_up(width, codec.downscale))
        with torch.no_grad():
            again = crop_to(codec.decode(codec.encode(padded)), height, width)
        for name, of_images in scores.items():
            of_images.append(PROTOCOLS[name].psnr(quantize(again), quantize(clean)).item())
    means = ", ".join(f"{fmean(values):.2f} dB ({name})" for name, values in scores.items())
    return [
        f"codec   {config.codec.name} reconstructs the clean images at PSNR {means}, which bounds the restored ones"
    ]


def _score_without_reference(args: argparse.Namespace, processes: Processes) -> int:
    """Score the images of a folder by no-reference metrics."""
    rows, metric = score_images(args.pred, args.nr, build.select_device(args.device), processes, download=args.download)
    folder = args.out or set_folder(Path("scores"), str(args.pred))
    if processes.is_first:
        write_no_reference(folder, rows, metric)
    say(*no_reference_table(rows, metric).splitlines(), f"wrote {folder}/: no_reference.csv, no_reference.json")
    return OK


def _score_finished(args: argparse.Namespace, processes: Processes) -> int:
    """Score the images of a folder against the clean images of another."""
    for folder in (args.pred, args.target):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    config = _overridden(config_from_dict({}), args)
    protocols = build.protocols(config, ())
    lpips = build.lpips(config, args.lpips_weights, args.download)
    scorer = build.scorer(protocols, lpips, args.metrics or METRICS)
    allowed = {"allow_jpeg": args.allow_jpeg, "may_crop": args.crop_to_min}
    rows = score_folders(args.pred, args.target, scorer, **allowed, processes=processes)
    report = Report(str(args.pred), rows, protocols, lpips)
    folder = args.out or set_folder(Path("scores"), str(args.pred))
    if processes.is_first:
        pairs = PairList(str(args.pred), tuple(pair_folders(args.pred, args.target)), crop_to_min=args.crop_to_min)
        _write(report, folder, build.images(config, pairs), _finished)
    tell(report, folder)
    if args.fid and processes.is_first:
        pairs, device = pair_folders(args.pred, args.target), build.select_device(args.device)
        say(*score_distributions(pairs, folder, device, download=args.download))
    return _conclude(report.nonfinite, processes)


def _finished(pair: Pair, _: int) -> Tensor:
    """Return a finished image as uint8 levels, in place of `Evaluator.restored`."""
    assert pair.degraded is not None
    return quantize(pair.degraded[None])[0]


def _compare_files(first: Path, second: Path) -> int:
    """Print the paired difference of two per_image.csv."""
    differences = compare(first, second)
    if not differences:
        raise DataError(f"{first} and {second} hold no scores")
    say(f"{first} -> {second}", *comparison_table(differences).splitlines())
    return OK


def _overridden(config: ExperimentConfig, args: argparse.Namespace) -> ExperimentConfig:
    if args.quality:
        config = build.at_quality(config, args.quality)
    given = {
        "sampler__num_steps": args.steps,
        "tiling__tile_size_px": None if args.tile == "auto" else args.tile,
        "tiling__tile_overlap_px": args.tile_overlap,
        "evaluation__lpips": _lpips(config, args),
        "evaluation__protocols": list(args.protocol) or None,
    }
    return build.with_overrides(config, **{name: value for name, value in given.items() if value is not None})


def _lpips(config: ExperimentConfig, args: argparse.Namespace) -> str | None:
    """Return the LPIPS network that the arguments request; None: that of the config."""
    if args.metrics and "lpips" not in args.metrics:
        return "none"
    requested = args.metrics or args.lpips_weights or args.download
    return "alex" if args.lpips is None and config.evaluation.lpips == "none" and requested else args.lpips


def _reports_of(checkpoint: Path) -> Path:
    """Return the folder of reports: test/ in the run folder of a checkpoint, or a folder beside a weights file."""
    if checkpoint == trained.SHIPPED_NAME and not checkpoint.exists():
        return Path("scores") / checkpoint
    if checkpoint.is_file():
        return checkpoint.with_name(f"{checkpoint.stem}_test")
    run = checkpoint.resolve().parents[1] if checkpoint.resolve().parent.name == "checkpoints" else checkpoint
    return run / "test"


def _conclude(nonfinite: list[str], processes: Processes) -> int:
    if nonfinite and processes.is_first:
        complain("test.py", f"{len(nonfinite)} images gave non-finite values: {', '.join(nonfinite)}")
    return SOME_FAILED if nonfinite else OK
