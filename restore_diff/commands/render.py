"""restore-diff render: write pairs of clean photographs and rendered weather."""

import argparse
import sys

from restore_diff.commands.console import count, device, hyphenated, path, run_command
from restore_diff.config import load_config
from restore_diff.settings import COMBINATIONS

PROGRAM = "restore-diff render"


def main(argv: list[str] | None = None) -> int:
    """Run the command; see the exit codes in its help. Raises SystemExit for --help and malformed arguments."""
    args = _parse(hyphenated(sys.argv[1:] if argv is None else argv))
    return run_command(PROGRAM, lambda: _render(args), "interrupted; run the same command again to continue")


def _render(args: argparse.Namespace) -> int:
    config = load_config([args.cfg] if args.cfg else [], _overrides(args))
    from restore_diff.commands.rendering import render  # heavy

    return render(config, args)


def _overrides(args: argparse.Namespace) -> list[str]:
    """Return the overrides of the command line with those of --weather and --seed."""
    overrides = list(args.overrides)
    if args.weather is not None:
        shares = ", ".join(f"{kind}: 1" for kind in COMBINATIONS)
        overrides.append(f"data.weather={f'{{{shares}}}' if args.weather == 'all' else args.weather}")
    if args.seed is not None:
        overrides.append(f"seed={args.seed}")
    return overrides


def parser() -> argparse.ArgumentParser:
    """The arguments, for `parse_args` and for shell completion."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Render weather on clean photographs and write the pairs OUT/input/NAME.png, OUT/target/NAME.png, "
        "which data.train=OUT reads. Existing pairs are skipped.",
        epilog="exit codes: 0 all rendered, 2 wrong usage, config or files, 3 some photographs failed (listed at the "
        "end), 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("-i", "--input", type=path, metavar="IN", help="a photograph, or a folder of them")
    parser.add_argument("-o", "--output", type=path, metavar="OUT", help="a folder; outside of IN")
    parser.add_argument(
        "--weather",
        choices=(*COMBINATIONS, "all"),
        help="all: draw one for each image; other kinds: data.weather=NAME (default: data.weather of the config)",
    )
    parser.add_argument("--cfg", metavar="FILE", help="a YAML file, searched here and in configs/")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. data.rain.density=[0.01,0.02]")
    parser.add_argument(
        "--copies",
        type=count(1, 10_000),
        default=1,
        metavar="N",
        help="number of images per photograph; several are named NAME_0, NAME_1, ... (default: 1)",
    )
    parser.add_argument("--seed", type=count(0), metavar="N", help="seed of the weather (default: 0)")
    parser.add_argument("--depth", type=path, metavar="FOLDER", help="depth maps for haze, of the same names and sizes")
    parser.add_argument("--limit", type=count(1), metavar="N", help="render only the first N photographs")
    parser.add_argument("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps")
    parser.add_argument("--overwrite", action="store_true", help="render existing pairs again")
    parser.add_argument("--dry-run", action="store_true", help="list the files that would be written")
    parser.add_argument(
        "--contact-sheet",
        type=path,
        metavar="FILE",
        help="write an image that shows each setting over its range, on the first photograph; pairs then need -o",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print failures only")
    return parser


def _parse(argv: list[str]) -> argparse.Namespace:
    args = parser().parse_intermixed_args(argv)
    if args.output is None and args.contact_sheet is None:
        parser().error("no output: give -o OUT or --contact-sheet FILE")
    if args.output is not None and args.input is None:
        parser().error("-o needs -i: the clean photographs")
    return args
