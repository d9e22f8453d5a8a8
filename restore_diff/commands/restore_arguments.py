"""The arguments of restore.py."""

import argparse
import re

from restore_diff.commands.arguments import (
    CHECKPOINT,
    QUALITIES,
    SAMPLERS,
    WEATHERS,
    count,
    device,
    dtype,
    path,
    pixels,
    tile,
)
from restore_diff.files import printable


def parse(argv: list[str]) -> argparse.Namespace:
    """Raises SystemExit for --help and malformed arguments."""
    parser = argparse.ArgumentParser(
        prog="restore.py",
        description="Restore a photograph, a folder, or a tree of folders. What is restored already is skipped.",
        epilog="exit codes: 0 all restored, 2 bad usage, 3 some images failed (listed at the end), 130 interrupted, "
        "143 terminated. Several machines that see the same folders share them by --shard, several processes of one by "
        "torchrun.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-i",
        "--input",
        type=_text_of_path,
        nargs="+",
        required=True,
        metavar="IN",
        help="images, folders, patterns such as 'photos/**/*.jpg', or @FILE: a list of images and folders, one a line",
    )
    parser.add_argument(
        "-o", "--output", type=path, required=True, metavar="OUT", help="a folder, or a file for a single image"
    )
    parser.add_argument("--ckpt", type=path, metavar="PATH", help=CHECKPOINT)
    _add_restoring(parser)
    _add_files(parser)
    _add_many(parser)
    _add_printing(parser)
    args = parser.parse_args(argv)
    if args.uncertainty and (args.n_samples or 0) < 2 and args.quality != "best":
        parser.error("--uncertainty needs several samples: add --n-samples 4")
    if args.verbose and args.json == "-":
        parser.error("-v prints where --json - prints the report: leave out one of them")
    return args


def _add_restoring(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how it is restored (default: as the checkpoint's config says)")
    how.add_argument("--quality", choices=QUALITIES, help="one dial: sets steps, tiles and samples (docs/speed.md)")
    how.add_argument(
        "--weather",
        choices=WEATHERS,
        default="auto",
        help="what the photographs show, for weights that can be told; auto: they see for themselves; unknown: without",
    )
    how.add_argument("--steps", type=count(1), metavar="N", help="network calls per image")
    how.add_argument("--sampler", choices=SAMPLERS)
    how.add_argument(
        "--seed", type=count(0), default=0, metavar="N", help="another seed gives another sample (default 0)"
    )
    how.add_argument("--n-samples", type=count(1), metavar="K", help="average K restorations of each image")
    how.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write to OUT/uncertainty how far the samples lie apart: white is a standard deviation of 0.1",
    )
    how.add_argument("--tile", type=tile, default="auto", metavar="auto|0|N", help="side of a tile in px, 0: no tiles")
    how.add_argument("--tile-overlap", type=count(0), metavar="N", help="overlap of tiles in px")
    how.add_argument("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps")
    how.add_argument(
        "--dtype",
        type=dtype,
        default="auto",
        metavar="auto|float32|bfloat16|float16",
        help="auto: bfloat16 on GPUs and CPUs that compute with it, else float32",
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files")
    files.add_argument("--suffix", default="", metavar="TEXT", help="added to the names, before the ending")
    files.add_argument(
        "--ext", choices=("auto", "png", "jpg", "webp", "tif"), default="auto", help="auto: as the input"
    )
    files.add_argument(
        "--jpeg-quality", type=count(1, 100), default=95, metavar="N", help="of JPEG and WebP, 1 to 100 (default 95)"
    )
    files.add_argument(
        "--alpha", choices=("keep", "drop"), default="keep", help="drop: outputs are opaque, as JPEG must be"
    )
    files.add_argument(
        "--metadata",
        choices=("keep", "strip"),
        default="keep",
        help="strip: no EXIF, that is camera, place and time; the colour profile stays, it is part of the colours",
    )
    files.add_argument("--overwrite", action="store_true", help="restore again what has an output")
    files.add_argument("--no-recursive", dest="recursive", action="store_false", help="no subfolders")
    files.add_argument(
        "--max-pixels", type=pixels, default="200M", metavar="N", help="refuse larger images (default 200M)"
    )
    files.add_argument("--compare", action="store_true", help="also write degraded | restored to OUT/comparisons")
    files.add_argument("--dry-run", action="store_true", help="list what would be written, and where")


def _add_many(parser: argparse.ArgumentParser) -> None:
    many = parser.add_argument_group("many images")
    many.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="only the I-th of N shares, such as 3/8, by name"
    )
    many.add_argument("--fail-fast", action="store_true", help="stop at the first image that fails")


def _add_printing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        type=_report,
        metavar="FILE",
        help="also report what became of each image; -: on stdout, and only that",
    )
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("-q", "--quiet", action="store_true", help="print failures only")
    talk.add_argument("-v", "--verbose", action="store_true", help="print each image")


def _text_of_path(text: str) -> str:
    path(text)
    return text


def _report(text: str) -> str:
    if text != "-" and not text.lower().endswith(".json"):  # so that a slip cannot replace a photograph
        raise argparse.ArgumentTypeError(f"must be -, or a file whose name ends in .json, got {printable(text)}")
    return text


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 1 to N, such as 3/8, got {printable(text)}")
    return int(match[1]), int(match[2])
