"""python -m restore_diff shard: a data set of many small files into few tar files, for network disks."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from restore_diff.commands.console import BAD_USAGE, INTERRUPTED, OK, complain, count, hyphenated, path, say
from restore_diff.data.names import DataError
from restore_diff.data.pairs import Split, find_pairs
from restore_diff.data.shard_writing import write_shards

PROGRAM = "restore_diff shard"


def main(argv: list[str] | None = None) -> int:
    """Run the command; see the exit codes in its help. Raises SystemExit for --help and malformed arguments."""
    args = _parse(hyphenated(sys.argv[1:] if argv is None else argv))
    try:
        pairs = find_pairs(args.input, args.split, args.root)
        num_tars = write_shards(pairs, args.output, args.pairs_per_shard)
    except (DataError, OSError) as error:
        complain(PROGRAM, error)
        return BAD_USAGE
    except KeyboardInterrupt:
        complain(PROGRAM, "interrupted; nothing was written")
        return INTERRUPTED
    say(f"{len(pairs.pairs)} pairs in {num_tars} tar files: data.{args.split}={args.output}")
    return OK


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description="Copy a data set into OUT/00000.tar, OUT/00001.tar, ..., which data.train=OUT reads in the order "
        "of the files. For network disks and quotas that do not like many small files.",
        epilog="exit codes: 0 done, 2 bad usage or files, 130 interrupted; OUT exists whole or not at all",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-i",
        "--input",
        required=True,
        metavar="PAIRS",
        help="written like data.train: a folder, DEGRADED:CLEAN, a card",
    )
    parser.add_argument("-o", "--output", type=path, required=True, metavar="OUT", help="a new folder")
    parser.add_argument("--pairs-per-shard", type=count(1), default=1000, metavar="N", help="default 1000")
    parser.add_argument("--split", choices=get_args(Split), default="train", help="default train")
    parser.add_argument(
        "--root",
        type=path,
        default=Path("data"),
        metavar="FOLDER",
        help="where the folders of cards lie (default: data)",
    )
    return parser.parse_args(argv)
