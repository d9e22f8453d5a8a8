"""What train.py and test.py share: score a test set, write the files, print the table."""

import argparse
import csv
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.transforms.functional import center_crop
from torchvision.utils import make_grid
from tqdm import tqdm

from restore_diff import build, trained
from restore_diff.build import at_quality
from restore_diff.commands.console import (
    BAD_USAGE,
    CHECKPOINT,
    INTERRUPTED,
    METRICS,
    OK,
    QUALITIES,
    SOME_FAILED,
    STOPPED,
    USER_ERRORS,
    WEATHERS,
    complain,
    count,
    device,
    dtype,
    hyphenated,
    logging_to_console,
    path,
    printing,
    say,
    tile,
)
from restore_diff.config import ExperimentConfig, config_from_dict
from restore_diff.data.images import write_image
from restore_diff.data.names import DataError
from restore_diff.data.pairs import Pair, PairList
from restore_diff.distributed import WHOLE, Share, sharing
from restore_diff.environment import is_out_of_memory
from restore_diff.evaluation.evaluator import Evaluator, Row
from restore_diff.evaluation.folders import (
    no_reference_table,
    pair_folders,
    score_distributions,
    score_folders,
    score_images,
    write_no_reference,
)
from restore_diff.evaluation.pictures import choose_examples, draw_panel
from restore_diff.evaluation.report import (
    Report,
    compare,
    comparison_table,
    console_table,
    latex_row,
    markdown_table,
    summarise,
)
from restore_diff.evaluation.sweep import sweep_table, write_sweep
from restore_diff.restoration.restorer import Restorer
from restore_diff.training.run import RunLog, Silence

NUM_PANEL_ROWS = 4
PANEL_PX = 256
PICTURE = "before_after.png"
VALIDATION_METRICS = ("psnr", "ssim")


class Choice(NamedTuple):
    """How a test set is scored, beyond what the config says."""

    metrics: Sequence[str] = METRICS
    seeds: Sequence[int] = (0,)
    limit: int | None = None
    save_images: bool = False
    lpips_weights: Path | None = None
    download: bool = False
    share: Share = WHOLE


def set_folder(parent: Path, source: str) -> Path:
    """Where the report on a test set goes: a folder of its own in `parent`, by whatever path the set is named."""
    return parent / (re.sub(r"[^\w-]+", "_", source).strip("_")[-60:] or "here")


def score_test_set(
    config: ExperimentConfig, restorer: Restorer, description: str, pairs: PairList, folder: Path, choice: Choice
) -> Report:
    """Restore and score every pair; per_image.csv, summary.json, tables and a picture go to `folder`.

    `description`, of the restorer, stands in the report: its numbers depend on all that it says. Where several
    processes share the pairs, all return the whole report, and the first one writes it.
    """
    images = build.images(config, pairs)
    dataset = Subset(images, range(min(choice.limit or len(images), len(images))))
    protocols = build.protocols(config, pairs.protocols)
    lpips = build.lpips(config, choice.lpips_weights, choice.download)
    evaluator = Evaluator(restorer.restore, build.scorer(protocols, lpips, choice.metrics), restorer.device)

    total = len(choice.share.positions(len(dataset))) * len(choice.seeds)
    with tqdm(total=total, unit="image", desc=pairs.name, disable=None if choice.share.is_first else True) as bar:

        def on_image(row: Row, restored: Tensor) -> None:
            if choice.save_images:
                seed = f"_seed{row.seed}" if len(choice.seeds) > 1 else ""
                path = folder / "images" / f"{row.name}{seed}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, restored)
            bar.update()

        rows = evaluator.evaluate(dataset, choice.seeds, on_image, choice.share)
    report = Report(pairs.name, rows, protocols, lpips, description)
    if not choice.share.is_first:
        return report
    write_report(report, folder)
    (folder / PICTURE).unlink(missing_ok=True)
    measures = [metric for metric in ("psnr", "ssim") if metric in choice.metrics]
    if measures and (examples := choose_examples(rows, f"{measures[0]}_{protocols[0]}")):
        draw_panel(folder / PICTURE, examples, dataset, evaluator.restored)
    return report


def write_report(report: Report, folder: Path) -> None:
    """per_image.csv, summary.json, and the table for Markdown and LaTeX."""
    report.write(folder)
    (folder / "table.md").write_text(markdown_table(report) + "\n", encoding="utf-8")
    (folder / "table.tex").write_text(latex_row(report) + "\n", encoding="utf-8")


def tell(report: Report, folder: Path) -> None:
    """Print the table, and where everything is."""
    say(*console_table(report).splitlines(), f"wrote {folder}/: per_image.csv, summary.json, table.md, table.tex")
    if (folder / PICTURE).exists():
        say(f"picture {folder / PICTURE}: degraded | restored | clean | error")


def validation(
    config: ExperimentConfig, restorer: Restorer, pairs: PairList, log: RunLog | Silence, share: Share = WHOLE
) -> Callable[[nn.Module, int], dict[str, float]]:
    """Scores of the held-out pairs by the path of test.py, and a fixed panel of the first of them in the log.

    `restorer` must hold the model that is trained. The panel shows pairs of the first process's share.
    """
    evaluator = Evaluator(restorer.restore, build.scorer(("rgb",), None, VALIDATION_METRICS), restorer.device)
    dataset = build.images(config, pairs)

    def validate(_: nn.Module, step: int) -> dict[str, float]:
        """Means by metric; NaN where no pair has a score."""
        pictures: list[Tensor] = []
        rows = evaluator.evaluate(dataset, on_image=lambda row, restored: pictures.append(restored), share=share)
        shown = zip(share.positions(len(dataset))[:NUM_PANEL_ROWS], pictures, strict=False)
        if share.is_first:
            log.image(step, _panel([(dataset[index], picture) for index, picture in shown]))
        summary = summarise(rows)
        means = {name: summary[f"{name}_rgb"].mean for name in VALIDATION_METRICS}
        return {name: math.nan if mean is None else mean for name, mean in means.items()}

    return validate


def _panel(shown: Sequence[tuple[Pair, Tensor]]) -> Tensor:
    """degraded | restored | clean of each image, cut to the middle of one size."""
    rows = [(pair.degraded, restored, pair.clean) for pair, restored in shown]
    size = [min(PANEL_PX, *(row[0].shape[axis] for row in rows)) for axis in (1, 2)]
    return make_grid([center_crop(image, size) for row in rows for image in row], nrow=3, padding=4, pad_value=1.0)


# The story of a test: a model on its test sets, finished images with or without clean ones, or two reports.


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


# python test.py: trained weights and a test set go in, a table with the metric conventions by name comes out.

OF_A_MODEL = {
    "ckpt",
    "data",
    "limit",
    "steps",
    "quality",
    "weather",
    "sweep_steps",
    "seeds",
    "tile",
    "tile_overlap",
    "device",
    "dtype",
    "save_images",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command; see the exit codes in its help. Raises SystemExit for --help and malformed arguments."""
    args = _parse(hyphenated(sys.argv[1:] if argv is None else argv))
    try:
        # heavy

        return test(args)
    except KeyboardInterrupt:
        complain("test.py", "interrupted")
        return INTERRUPTED


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="test.py",
        description="Score trained weights on a test set; without arguments, the newest run on its own test set.",
        epilog="exit codes: 0 done, 2 bad usage, data, checkpoint or files, 3 some images gave values that are not "
        "finite, 4 out of memory, 130 interrupted",
        allow_abbrev=False,
    )
    _add_subjects(parser)
    _add_metrics(parser)
    _add_restoring(parser)
    _add_files(parser)
    args = parser.parse_args(argv)
    if (args.pred is None) != (args.target is None) and not args.nr:
        parser.error("--pred and --target belong together")
    _refuse_what_has_no_effect(parser, args)
    return args


def _add_subjects(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is scored")
    what.add_argument("--ckpt", type=path, metavar="PATH", help=CHECKPOINT)
    what.add_argument(
        "--data",
        type=path,
        action="append",
        metavar="SET",
        help="INPUT:TARGET folders, a folder with both, or a card; may be given again (default: the run's test set)",
    )
    what.add_argument("--limit", type=count(1), metavar="N", help="only the first N images")
    what.add_argument("--pred", type=path, metavar="FOLDER", help="score finished images against --target, no model")
    what.add_argument("--target", type=path, metavar="FOLDER", help="the clean images for --pred")
    what.add_argument(
        "--nr", type=_names, metavar="NAMES", help="score --pred without --target by pyiqa, e.g. niqe,musiq"
    )
    what.add_argument(
        "--crop-to-min",
        action="store_true",
        help="cut images that differ by up to 8 px in size, at right and bottom, to the size that they share",
    )
    what.add_argument("--allow-jpeg", action="store_true", help="score JPEG files of --pred all the same")
    what.add_argument(
        "--compare",
        nargs=2,
        type=path,
        metavar="CSV",
        help="paired difference of two per_image.csv, second minus first",
    )


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument("--metrics", type=_choices(METRICS), metavar="NAMES", help="of psnr,ssim,lpips (default: all)")
    metrics.add_argument(
        "--protocol", type=_names, default=(), metavar="NAMES", help="conventions, or all (default: rgb and the card's)"
    )
    metrics.add_argument("--lpips", choices=("alex", "vgg"), help="trunk of LPIPS (default: as the config says, alex)")
    metrics.add_argument("--lpips-weights", type=path, metavar="FILE", help="ImageNet weights of the trunk")
    metrics.add_argument("--fid", action="store_true", help="also FID and KID between --pred and --target")
    metrics.add_argument("--download", action="store_true", help="fetch missing weights of metrics, hash checked")


def _add_restoring(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how it is restored (default: as the checkpoint's config says)")
    how.add_argument("--quality", choices=QUALITIES, help="one dial, as restore.py has it")
    how.add_argument("--weather", choices=WEATHERS, default="auto", help="what all images show, as restore.py has it")
    how.add_argument("--steps", type=count(1), metavar="N", help="network calls per image")
    how.add_argument(
        "--sweep-steps",
        type=_counts,
        default=(),
        metavar="N,N,...",
        help="score at each of these; plot quality and time",
    )
    how.add_argument("--seeds", type=count(1), default=1, metavar="N", help="samples per image; scores are averaged")
    how.add_argument("--tile", type=tile, default="auto", metavar="auto|0|N", help="side of a tile in px, 0: no tiles")
    how.add_argument("--tile-overlap", type=count(0), metavar="N", help="overlap of tiles in px")
    how.add_argument("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps")
    how.add_argument(
        "--dtype", type=dtype, default="auto", metavar="auto|float32|bfloat16|float16", help="as restore.py has it"
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files")
    files.add_argument(
        "--out",
        type=path,
        metavar="FOLDER",
        help="where reports go (default: test/ in the run's folder; for --pred, scores/)",
    )
    files.add_argument(
        "--save-images", action="store_true", help="also write each restored image, to images/ beside the report"
    )


def _refuse_what_has_no_effect(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Whoever gives an option that nothing would look at expects something else."""
    given = {name for name, value in vars(args).items() if value != parser.get_default(name)}
    no_lpips = args.metrics is not None and "lpips" not in args.metrics
    for applies, unused, why in (
        (args.compare, given - {"compare"}, "with --compare"),
        (args.nr, given - {"nr", "pred", "device", "out", "download"}, "with --nr"),
        (args.pred, given & OF_A_MODEL - ({"device"} if args.nr or args.fid else set()), "with --pred"),
        (not args.pred, given & {"allow_jpeg", "nr", "fid"}, "without --pred"),
        (no_lpips, given & {"lpips", "lpips_weights"}, "without lpips in --metrics"),
        (no_lpips and not args.fid, given & {"download"}, "without lpips in --metrics"),
        (args.sweep_steps, given & {"steps"}, "with --sweep-steps"),
    ):
        if applies and unused:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unused))
            parser.error(f"{names}: no effect {why}")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    if not names:
        raise argparse.ArgumentTypeError("must be names with commas between them")
    return names


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({count(1)(number) for number in _names(text)}))


def _choices(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = _names(text)
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"must be some of {','.join(known)}, got {text}")
        return names

    return parse
