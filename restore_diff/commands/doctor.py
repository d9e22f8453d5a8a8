"""restore-diff doctor: check this machine, or data sets, and print what to do about each fault."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from restore_diff.commands.console import BAD_USAGE, OK, count, device, hyphenated, path, run_command, say
from restore_diff.config import ExperimentConfig, load_config

if TYPE_CHECKING:
    from restore_diff.doctor.machine import Check
    from restore_diff.doctor.sets import DataSet

PROGRAM = "restore-diff doctor"
RUNS = Path("runs")


def main(argv: list[str] | None = None) -> int:
    """Run the command; its help lists the exit codes. Raises SystemExit for --help and malformed arguments."""
    args = _parse(sys.argv[1:] if argv is None else argv)
    return run_command(PROGRAM, lambda: _run(load_config(args.cfg) if args.cfg else ExperimentConfig(), args))


def _run(config: ExperimentConfig, args: argparse.Namespace) -> int:
    checks: list[Check] = []
    for check in _data_checks(config, args) if args.data else _machine_checks(config, args):
        if not args.json:
            if not checks or checks[-1].subject != check.subject:
                say(check.subject)
            say(f"  {check.line()}")
        checks.append(check)
    counts = Counter(check.status for check in checks)
    if args.json:
        content = {"failed": counts["FAIL"] > 0, "checks": [vars(check) for check in checks]}
        print(json.dumps(content, allow_nan=False, indent=2))
    else:
        say(f"{counts['ok']} ok, {counts['note']} notes, {counts['warn']} warnings, {counts['FAIL']} failures")
    return BAD_USAGE if counts["FAIL"] else OK


def _machine_checks(config: ExperimentConfig, args: argparse.Namespace) -> "Iterator[Check]":
    from restore_diff.doctor.machine import check_machine

    return check_machine(config, bool(args.cfg), args.device, RUNS)


def _data_checks(config: ExperimentConfig, args: argparse.Namespace) -> "Iterator[Check]":
    from restore_diff.doctor.machine import Check
    from restore_diff.doctor.sets import check_leaks, check_set, data_sets

    root = Path(args.root or config.data.root)
    subjects = [one for source in args.data for one in data_sets(source, root, args.jobs)]
    against = [source for source in args.against if source not in args.data]
    others = [one for source in against for one in data_sets(source, root, args.jobs)]
    for one in subjects:
        yield from check_set(one, config.data.crop_size_px)
    for other in others:
        if other.pairs is None:
            yield Check(other.label, "names", "FAIL", other.error)
    usable = [one for one in subjects if one.pairs]
    compared = [(first, second) for first, second in combinations(usable, 2) if first.split != second.split]
    compared += [(first, second) for first in usable for second in others if second.pairs]
    for first, second in compared:
        yield from check_leaks(first, second)
    if args.split:
        yield _split(subjects, args)


def _split(subjects: "list[DataSet]", args: argparse.Namespace) -> "Check":
    from restore_diff.data.names import DataError
    from restore_diff.doctor.machine import Check
    from restore_diff.doctor.splitting import divide, write_split

    one = subjects[0]
    if len(subjects) > 1 or one.pairs is None:
        found = f"{len(subjects)} data sets were found" if len(subjects) > 1 else "its files could not be paired"
        return Check(one.label, "split", "FAIL", f"not split: {found}", "name one folder of pairs or photographs")
    try:
        division = divide(one, args.test_share, args.seed)
        write_split(division, args.split)
    except (DataError, OSError) as error:
        return Check(one.label, "split", "FAIL", str(error))
    pairs = f"{len(division.train)} for train and {len(division.test)} for test"
    scenes = f"{division.num_groups} scenes, {division.num_joined} clean images share their scene with another"
    return Check(one.label, "split", "ok", f"{args.split}: {pairs}; {scenes}")


def parser() -> argparse.ArgumentParser:
    """The arguments, for `parse_args` and for shell completion."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Check this machine or, with --data, data sets: names, files, sizes, duplicates, and pictures that "
        "are in train and in test. Nothing is changed.",
        epilog="exit codes: 0 no failure, 2 at least one failure, or bad usage, 130 interrupted",
        allow_abbrev=False,
    )
    sets = {"type": _source, "nargs": "+", "default": [], "action": "extend", "metavar": "SET"}
    parser.add_argument("--data", **sets, help="sets to check: a card, a folder, or DEGRADED:CLEAN")
    parser.add_argument("--against", **sets, help="other sets, searched for the pictures of --data")
    parser.add_argument("--root", type=path, metavar="FOLDER", help="folder with the data of cards (default: data)")
    parser.add_argument("--cfg", action="append", default=[], metavar="FILE", help="check the needs of this config")
    parser.add_argument("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps")
    parser.add_argument("--split", type=path, metavar="OUT", help="write a leak-free split to OUT/train and OUT/test")
    parser.add_argument("--test-share", type=_share, metavar="S", help="share of clean images for test (default 0.1)")
    parser.add_argument("--seed", type=count(0), metavar="N", help="select another split (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON with all names")
    parser.add_argument("-j", "--jobs", type=count(1, 256), metavar="N", help="threads that read files")
    return parser


def _parse(argv: list[str]) -> argparse.Namespace:
    args = parser().parse_args(hyphenated(argv))
    for name, needs in (("against", "data"), ("split", "data"), ("test_share", "split"), ("seed", "split")):
        if getattr(args, name) not in (None, []) and not getattr(args, needs):
            parser().error(f"--{name.replace('_', '-')}: no effect without --{needs}")
    for name, value in {"test_share": 0.1, "seed": 0, "jobs": min(8, os.cpu_count() or 1)}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def _source(text: str) -> str:
    path(text)
    return text


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text}")
    return share
