"""The story of a test: a model on its test sets, finished images against clean ones, or two reports."""

import argparse
import sys
from pathlib import Path

from restore_diff import build
from restore_diff.commands.console import say
from restore_diff.commands.scoring import Choice, score_test_set, tell, write_report
from restore_diff.config import ExperimentConfig, config_from_dict
from restore_diff.data.pairs import find_pairs
from restore_diff.evaluation.comparison import compare, comparison_table
from restore_diff.evaluation.folders import score_folders
from restore_diff.evaluation.report import Report

OK, SOME_FAILED = 0, 3


def score_model(args: argparse.Namespace) -> int:
    """Score the weights of a checkpoint on each test set."""
    path, config, weights = build.load_experiment(args.ckpt)
    config = _overridden(config, args)
    device = build.select_device(args.device)
    precision = build.select_precision(args.dtype, device)
    restorer = build.restorer(config, build.trained_network(config, weights, device), device, precision)
    sets = [find_pairs(source, "test", Path(config.data.root)) for source in args.data or [config.data.test]]
    say(build.describe(path, config, weights, device, precision))

    choice = Choice(args.metrics, range(args.seeds), args.limit, args.save_images, args.lpips_weights, args.download)
    nonfinite: list[str] = []
    for pairs in sets:
        say(*(f"note    {note}" for note in pairs.notes))
        folder = (args.out or _run_of(path) / "test") / pairs.name
        report = score_test_set(config, restorer, pairs, folder, choice)
        tell(report, folder)
        nonfinite += report.nonfinite
    return _conclude(nonfinite)


def score_finished(args: argparse.Namespace) -> int:
    """Score the images of one folder against the clean ones of another; no model is involved."""
    config = _overridden(config_from_dict({}), args)
    protocols = build.protocols(config, ())
    lpips = build.lpips(config, args.lpips_weights, args.download)
    scorer = build.scorer(protocols, lpips, args.metrics)
    rows = score_folders(args.pred, args.target, scorer, allow_jpeg=args.allow_jpeg)
    report = Report(args.pred.name, rows, protocols, lpips)
    folder = args.out or Path("scores") / args.pred.name
    write_report(report, folder)
    tell(report, folder)
    return _conclude(report.nonfinite)


def compare_files(first: Path, second: Path) -> int:
    """Print the paired differences of two per_image.csv."""
    say(f"{first} -> {second}", *comparison_table(compare(first, second)).splitlines())
    return OK


def _overridden(config: ExperimentConfig, args: argparse.Namespace) -> ExperimentConfig:
    given = {
        "sampler__num_steps": args.steps,
        "tiling__tile_size_px": None if args.tile == "auto" else args.tile,
        "tiling__tile_overlap_px": args.tile_overlap,
        "evaluation__lpips": args.lpips if "lpips" in args.metrics else "none",
        "evaluation__protocols": list(args.protocol) or None,
    }
    return build.with_overrides(config, **{name: value for name, value in given.items() if value is not None})


def _run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint is of; for a weights file, a folder beside it."""
    if checkpoint.is_file():
        return checkpoint.with_suffix("")
    return checkpoint.parents[1] if checkpoint.parent.name == "checkpoints" else checkpoint


def _conclude(nonfinite: list[str]) -> int:
    if nonfinite:
        say(f"test.py: {len(nonfinite)} images gave values that are not finite: {', '.join(nonfinite)}", to=sys.stderr)
    return SOME_FAILED if nonfinite else OK
