"""restore-diff doctor: what is wrong with this machine, or with a data set, and what to do about it."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from restore_diff.commands.console import BAD_USAGE, INTERRUPTED, OK, complain, count, device, hyphenated, path, say
from restore_diff.config import ConfigError, ExperimentConfig, load_config
from restore_diff.doctor.sets import Check

if TYPE_CHECKING:
    from restore_diff.doctor.sets import DataSet

PROGRAM = "restore-diff doctor"
RUNS = Path("runs")


def main(argv: list[str] | None = None) -> int:
    """Run the command; see the exit codes in its help. Raises SystemExit for --help and malformed arguments."""
    args = _parse(sys.argv[1:] if argv is None else argv)
    try:
        config = load_config(args.cfg) if args.cfg else ExperimentConfig()
    except ConfigError as error:
        complain(PROGRAM, error)
        return BAD_USAGE
    try:
        return _run(config, args)
    except KeyboardInterrupt:
        complain(PROGRAM, "interrupted")
        return INTERRUPTED


def _run(config: ExperimentConfig, args: argparse.Namespace) -> int:
    checks: list[Check] = []
    for check in _all_checks(config, args):
        if not args.json:
            if not checks or checks[-1].subject != check.subject:
                say(check.subject)
            say(f"  {check.line()}")
        checks.append(check)
    counts = Counter(check.status for check in checks)
    failed = counts["FAIL"] > 0
    if args.json:
        content = {"failed": failed, "checks": [check.plain() for check in checks]}
        print(json.dumps(content, allow_nan=False, indent=2))
    else:
        say(f"{counts['ok']} ok, {counts['note']} notes, {counts['warn']} warnings, {counts['FAIL']} failures")
    return BAD_USAGE if failed else OK


def _all_checks(config: ExperimentConfig, args: argparse.Namespace) -> Iterator[Check]:
    from restore_diff.doctor.machine import check_machine

    root = Path(args.root or config.data.root)
    if args.data:
        yield from _data_checks(config, args, root)
    else:
        yield from check_machine(config, bool(args.cfg), args.device, RUNS)


def _data_checks(config: ExperimentConfig, args: argparse.Namespace, root: Path) -> Iterator[Check]:
    from restore_diff.doctor.sets import check_leaks, check_set

    subjects = list(_surveyed(args.data, root, args))
    others = list(_surveyed([source for source in args.against if source not in args.data], root, args))
    for one in subjects:
        yield from check_set(one, config.data.crop_size_px)
    for other in others:
        if other.pairs is None:
            yield Check(other.label, "names", "FAIL", other.error)
    usable = [one for one in subjects if one.pairs]
    for first, second in combinations(usable, 2):
        if first.split != second.split:
            yield from check_leaks(first, second)
    for first in usable:
        for second in (other for other in others if other.pairs):
            yield from check_leaks(first, second)
    if args.split:
        yield _split(subjects, args)


def _surveyed(sources: Iterable[str], root: Path, args: argparse.Namespace) -> Iterator["DataSet"]:
    """The data sets that the sources name, with all their files read."""
    from tqdm import tqdm

    from restore_diff.doctor.sets import data_sets, survey

    for source in sources:
        for one in data_sets(source, root):
            files = {path for pair in one.files() for path in (pair.clean, pair.degraded) if path is not None}
            with tqdm(total=len(files), unit="file", desc=one.label, disable=None) as bar:
                yield one.surveyed(survey(one.files(), args.jobs, bar.update))


def _split(subjects: "list[DataSet]", args: argparse.Namespace) -> Check:
    from restore_diff.data.names import DataError
    from restore_diff.doctor.splitting import divide, write_split

    one = subjects[0]
    if len(subjects) > 1 or one.pairs is None:
        found = f"{len(subjects)} data sets were found" if len(subjects) > 1 else "its pairs cannot be told"
        return Check(one.label, "split", "FAIL", f"not split: {found}", "name one folder of pairs or photographs")
    try:
        division = divide(one, args.test_share, args.seed)
        write_split(division, args.split)
    except (DataError, OSError) as error:
        return Check(one.label, "split", "FAIL", str(error))
    pairs = f"{len(division.train)} to train and {len(division.test)} to test"
    scenes = f"{division.num_groups} scenes, {division.num_joined} clean images share theirs with another"
    return Check(one.label, "split", "ok", f"{args.split}: {pairs}; {scenes}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Look at this machine or, with --data, at data sets: names, files, sizes, duplicates, and pictures "
        "that are both trained and tested on. Nothing is changed.",
        epilog="exit codes: 0 nothing failed, 2 something did, or bad usage, 130 interrupted",
        allow_abbrev=False,
    )
    source = "a card, a folder, or DEGRADED:CLEAN"
    parser.add_argument("--data", type=_source, nargs="+", default=[], action="extend", metavar="SET", help=source)
    parser.add_argument(
        "--against",
        type=_source,
        nargs="+",
        default=[],
        action="extend",
        metavar="SET",
        help="other sets, in which the pictures of --data are looked for",
    )
    parser.add_argument("--root", type=path, metavar="FOLDER", help="where the folders of cards lie (default: data)")
    parser.add_argument("--cfg", action="append", default=[], metavar="FILE", help="look at what this config needs")
    parser.add_argument("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps")
    parser.add_argument("--split", type=path, metavar="OUT", help="write OUT/train and OUT/test that share no scene")
    parser.add_argument("--test-share", type=_share, metavar="S", help="of the clean images (default 0.1)")
    parser.add_argument("--seed", type=count(0), metavar="N", help="another seed gives another split (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON, with every name")
    parser.add_argument("-j", "--jobs", type=count(1, 256), metavar="N", help="threads that read files")
    args = parser.parse_args(hyphenated(argv))
    for name, needs in (("against", "data"), ("split", "data"), ("test_share", "split"), ("seed", "split")):
        if getattr(args, name) not in (None, []) and not getattr(args, needs):
            parser.error(f"--{name.replace('_', '-')}: no effect without --{needs}")
    defaults = {"test_share": 0.1, "seed": 0, "jobs": min(8, os.cpu_count() or 1)}
    for name, value in defaults.items():
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
