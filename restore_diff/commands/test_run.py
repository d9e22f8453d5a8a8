"""The story of a test: a model on its test sets, finished images with or without clean ones, or two reports."""

import argparse
import csv
import sys
from pathlib import Path

from restore_diff import build, trained
from restore_diff.commands.arguments import METRICS
from restore_diff.commands.console import complain, logging_to_console, printing, say
from restore_diff.commands.errors import USER_ERRORS
from restore_diff.commands.exit_codes import BAD_USAGE, OK, SOME_FAILED, STOPPED
from restore_diff.commands.scoring import Choice, score_test_set, set_folder, tell, write_report
from restore_diff.config import ExperimentConfig, config_from_dict
from restore_diff.data.listing import DataError
from restore_diff.dial import at_quality
from restore_diff.evaluation.comparison import compare, comparison_table
from restore_diff.evaluation.distribution import score_distributions
from restore_diff.evaluation.folders import pair_folders, score_folders
from restore_diff.evaluation.no_reference import no_reference_table, score_images, write_no_reference
from restore_diff.evaluation.report import Report
from restore_diff.evaluation.sharing import Share, sharing
from restore_diff.evaluation.sweep import sweep_table, write_sweep
from restore_diff.memory import is_out_of_memory


def test(args: argparse.Namespace) -> int:
    """Do what the arguments ask for; return the exit code."""
    try:
        with logging_to_console(), sharing() as share, printing(share.is_first):
            if args.compare:
                return _compare_files(*args.compare)
            if args.nr:
                return _score_without_reference(args, share)
            return _score_finished(args, share) if args.pred else _score_model(args, share)
    except USER_ERRORS as error:
        complain("test.py", error)
        return BAD_USAGE
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        complain("test.py", "out of memory; tiles need less, e.g. --tile 256")
        return STOPPED


def _score_model(args: argparse.Namespace, share: Share) -> int:
    """Score the weights of a checkpoint on each test set, at each number of steps."""
    path, config, weights = trained.load_experiment(args.ckpt)
    config = _overridden(config, args)
    sources = [str(source) for source in args.data or [config.data.test]]
    sets = [build.test_set(config, source, args.crop_to_min) for source in sources]
    swept = [build.with_overrides(config, sampler__num_steps=num_steps) for num_steps in args.sweep_steps]
    device = build.select_device(args.device)

    weather = None if args.weather == "auto" else args.weather
    metrics = args.metrics or METRICS
    choice = Choice(metrics, range(args.seeds), args.limit, args.save_images, args.lpips_weights, args.download, share)
    nonfinite: list[str] = []
    for source, pairs in zip(sources, sets, strict=True):
        say(*(f"note    {note}" for note in pairs.notes))
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
        if swept:
            if share.is_first:
                write_sweep(folder, reports)
            say(*sweep_table(reports).splitlines(), f"wrote {folder}/: sweep.csv, sweep.png")
    return _conclude(nonfinite, share)


def _score_without_reference(args: argparse.Namespace, share: Share) -> int:
    """Score the images of a folder by themselves; neither a model nor clean images are involved."""
    rows, metric = score_images(args.pred, args.nr, build.select_device(args.device), share, download=args.download)
    folder = args.out or set_folder(Path("scores"), str(args.pred))
    if share.is_first:
        write_no_reference(folder, rows, metric)
    say(*no_reference_table(rows, metric).splitlines(), f"wrote {folder}/: no_reference.csv, no_reference.json")
    return OK


def _score_finished(args: argparse.Namespace, share: Share) -> int:
    """Score the images of one folder against the clean ones of another; no model is involved."""
    for folder in (args.pred, args.target):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    config = _overridden(config_from_dict({}), args)
    protocols = build.protocols(config, ())
    lpips = build.lpips(config, args.lpips_weights, args.download)
    scorer = build.scorer(protocols, lpips, args.metrics or METRICS)
    may = {"allow_jpeg": args.allow_jpeg, "may_crop": args.crop_to_min}
    rows = score_folders(args.pred, args.target, scorer, **may, share=share)
    report = Report(str(args.pred), rows, protocols, lpips)
    folder = args.out or set_folder(Path("scores"), str(args.pred))
    if share.is_first:
        write_report(report, folder)
    tell(report, folder)
    if args.fid and share.is_first:
        pairs, device = pair_folders(args.pred, args.target), build.select_device(args.device)
        say(*score_distributions(pairs, folder, device, download=args.download))
    return _conclude(report.nonfinite, share)


def _compare_files(first: Path, second: Path) -> int:
    """Print the paired differences of two per_image.csv."""
    try:
        differences = compare(first, second)
    except ValueError as error:
        raise DataError(str(error)) from error
    except csv.Error as error:
        raise DataError(f"{first} or {second} is no per_image.csv: {error}") from error
    if not differences:
        raise DataError(f"{first} and {second} hold no scores")
    say(f"{first} -> {second}", *comparison_table(differences).splitlines())
    return OK


def _overridden(config: ExperimentConfig, args: argparse.Namespace) -> ExperimentConfig:
    if args.quality:
        config = at_quality(config, args.quality)
    given = {
        "sampler__num_steps": args.steps,
        "tiling__tile_size_px": None if args.tile == "auto" else args.tile,
        "tiling__tile_overlap_px": args.tile_overlap,
        "evaluation__lpips": _lpips(config, args),
        "evaluation__protocols": list(args.protocol) or None,
    }
    return build.with_overrides(config, **{name: value for name, value in given.items() if value is not None})


def _lpips(config: ExperimentConfig, args: argparse.Namespace) -> str | None:
    """The trunk that the arguments ask for; None: as the config says."""
    if args.metrics and "lpips" not in args.metrics:
        return "none"
    if (
        args.lpips is None
        and config.evaluation.lpips == "none"
        and (args.metrics or args.lpips_weights or args.download)
    ):
        return "alex"
    return args.lpips


def _reports_of(checkpoint: Path) -> Path:
    """test/ in the run folder that a checkpoint is of; for a weights file, a folder beside it."""
    if checkpoint == trained.SHIPPED_NAME and not checkpoint.exists():
        return Path("scores") / checkpoint
    if checkpoint.is_file():
        return checkpoint.with_name(f"{checkpoint.stem}_test")
    run = checkpoint.resolve().parents[1] if checkpoint.resolve().parent.name == "checkpoints" else checkpoint
    return run / "test"


def _conclude(nonfinite: list[str], share: Share) -> int:
    if nonfinite and share.is_first:
        say(f"test.py: {len(nonfinite)} images gave values that are not finite: {', '.join(nonfinite)}", to=sys.stderr)
    return SOME_FAILED if nonfinite else OK
