"""Arguments of test.py. The work is in `commands.scoring`, imported only for valid arguments: --help needs no torch."""

import argparse
import sys
from collections.abc import Callable

from restore_diff.commands.console import (
    CHECKPOINT,
    INTERRUPTED,
    METRICS,
    PLUGIN,
    QUALITIES,
    WEATHERS,
    complain,
    count,
    device,
    dtype,
    hyphenated,
    path,
    program,
    tile,
)

MODEL_OPTIONS = {"ckpt", "data", "limit", "steps", "quality", "weather", "sweep_steps", "seeds"}
MODEL_OPTIONS |= {"tile", "tile_overlap", "device", "dtype", "save_images"}


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code. Raises SystemExit for --help and malformed arguments."""
    args = _parse(hyphenated(sys.argv[1:] if argv is None else argv))
    try:
        from restore_diff.commands.scoring import test

        return test(args)
    except KeyboardInterrupt:
        complain("test.py", "interrupted")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The arguments, for `parse_args` and for shell completion."""
    parser = argparse.ArgumentParser(
        prog=program("test.py"),
        description="Score trained weights on a test set; without arguments, the newest run on its own test set.",
        epilog="exit codes: 0 done, 2 wrong usage, data, checkpoint or files, 3 some images gave non-finite values, "
        "4 out of memory, 130 interrupted",
        allow_abbrev=False,
    )
    _add_subjects(parser)
    _add_metrics(parser)
    _add_restoration(parser)
    return parser


def _parse(argv: list[str]) -> argparse.Namespace:
    known = parser()
    args = known.parse_args(argv)
    if (args.pred is None) != (args.target is None) and not args.nr:
        known.error("--pred and --target belong together")
    _reject_unused_options(known, args)
    return args


def _add_subjects(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what to score").add_argument
    add("--ckpt", "-n", "--name", type=path, metavar="PATH", help=CHECKPOINT)
    add("--plugin", type=path, action="append", default=[], metavar="FILE", help=PLUGIN)
    pairs = "INPUT:TARGET folders, a folder with both, or a card; repeatable (default: the run's test set)"
    add("--data", type=path, action="append", metavar="SET", help=pairs)
    add("--limit", type=count(1), metavar="N", help="only the first N images")
    add("--pred", type=path, metavar="FOLDER", help="score finished images against --target, without a model")
    add("--target", type=path, metavar="FOLDER", help="clean images for --pred")
    add("--nr", type=_names, metavar="NAMES", help="score --pred without --target by pyiqa, e.g. niqe,musiq")
    add("--crop-to-min", action="store_true", help="crop pairs that differ by up to 8 px to their common size")
    add("--allow-jpeg", action="store_true", help="accept JPEG files in --pred")
    add("--compare", nargs=2, type=path, metavar="CSV", help="paired difference of two per_image.csv, second - first")


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("metrics").add_argument
    add("--metrics", type=_choices(METRICS), metavar="NAMES", help="some of psnr,ssim,lpips (default: all)")
    add("--protocol", type=_names, default=(), metavar="NAMES", help="protocols, or all (default: rgb and the card's)")
    add("--lpips", choices=("alex", "vgg"), help="network of LPIPS (default: that of the config, alex)")
    add("--lpips-weights", type=path, metavar="FILE", help="ImageNet weights of the LPIPS network")
    add("--fid", action="store_true", help="also compute FID and KID between --pred and --target")
    add("--download", action="store_true", help="download missing weights of metrics and check their hash")


def _add_restoration(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("restoration (default: the checkpoint's config)").add_argument
    add("--quality", choices=QUALITIES, help="preset of sampler and tiles, as in restore.py")
    add("--weather", choices=WEATHERS, default="auto", help="weather label for all images, as in restore.py")
    add("--steps", "-s", type=count(1), metavar="N", help="sampling steps per image")
    add("--sweep-steps", type=_counts, default=(), metavar="N,N,...", help="score at each; plot quality and time")
    add("--seeds", type=count(1), default=1, metavar="N", help="samples per image; scores are averaged (default: 1)")
    add("--tile", "-t", type=tile, default="auto", metavar="auto|0|N", help="tile size in px, 0: no tiles")
    add("--tile-overlap", type=count(0), metavar="N", help="overlap of tiles in px")
    add("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps", help="default: auto")
    add("--dtype", type=dtype, default="auto", metavar="auto|float32|bfloat16|float16", help="as in restore.py")
    add("--fp16", "--half", dest="dtype", action="store_const", const="float16", help="the same as --dtype float16")
    add = parser.add_argument_group("files").add_argument
    reports = "folder for reports (default: test/ in the run's folder; for --pred, scores/)"
    add("--out", type=path, metavar="FOLDER", help=reports)
    add("--save-images", action="store_true", help="also write each restored image to images/ beside the report")


def _reject_unused_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Reject options that have no effect."""
    given = {name for name, value in vars(args).items() if value != parser.get_default(name)}
    no_lpips = args.metrics is not None and "lpips" not in args.metrics
    for applies, unused, why in (
        (args.compare, given - {"compare"}, "with --compare"),
        (args.nr, given - {"nr", "pred", "device", "out", "download"}, "with --nr"),
        (args.pred, given & MODEL_OPTIONS - ({"device"} if args.nr or args.fid else set()), "with --pred"),
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
        raise argparse.ArgumentTypeError("must be comma-separated names")
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
