"""python test.py: trained weights and a test set go in, a table with the metric conventions by name comes out."""

import argparse
import sys
from collections.abc import Callable

from restore_diff.commands.arguments import (
    CHECKPOINT,
    METRICS,
    QUALITIES,
    WEATHERS,
    count,
    device,
    dtype,
    hyphenated,
    path,
    tile,
)
from restore_diff.commands.console import complain
from restore_diff.commands.exit_codes import INTERRUPTED

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
        from restore_diff.commands.test_run import test  # heavy

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
