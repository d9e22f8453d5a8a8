"""restore-diff shard: copy a data set of many small files into a few zip files, for network disks."""

import argparse
import shutil
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import get_args

from tqdm import tqdm

from restore_diff.commands.console import OK, count, hyphenated, path, run_command, say
from restore_diff.data.archive import num_bytes, open_file
from restore_diff.data.names import DataError
from restore_diff.data.pairs import PairList, Split, find_pairs
from restore_diff.files import new_folder, printable

PROGRAM = "restore-diff shard"


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code of the help text. Raises SystemExit for --help and malformed arguments."""
    args = parser().parse_args(hyphenated(sys.argv[1:] if argv is None else argv))
    return run_command(PROGRAM, lambda: _shard(args), "interrupted; nothing was written")


def _shard(args: argparse.Namespace) -> int:
    pairs = find_pairs(args.input, args.split, args.root)
    num_zips = write_shards(pairs, args.output, args.pairs_per_shard)
    say(f"{len(pairs.pairs)} pairs in {num_zips} zip files: data.{args.split}={args.output}")
    return OK


def write_shards(pairs: PairList, out: Path, pairs_per_shard: int) -> int:
    """Write `out`/000000.zip, ... with input/ and target/, or with clean photographs only; return their number.

    Files are copied byte for byte, a shared clean file once, so the same pairs give the same zip files. DataError for
    joined data sets and for names that do not pair up again, OSError if `out` exists; then nothing is written.
    """
    if pairs.weights or any(pair.weather for pair in pairs.pairs):
        raise DataError(f"{pairs.name} joins data sets or renders weather: write each part, then join the results")
    starts = range(0, len(pairs.pairs), pairs_per_shard)
    members = _members(pairs)
    with new_folder(out) as part:
        with tqdm(total=len(members), unit="file", desc="copy", disable=None) as bar:
            for number, start in enumerate(starts):
                with zipfile.ZipFile(part / f"{number:06d}.zip", "x") as archive:
                    for pair in pairs.pairs[start : start + pairs_per_shard]:
                        for file in (pair.clean, pair.degraded):
                            if file is not None and file in members:
                                _add(archive, members.pop(file), file)
                                bar.update()
        if _shape(pairs) != _shape(find_pairs(str(part), "train", Path())):
            advice = "give each pair a name of its own, sorted, and its clean image the same name"
            raise DataError(
                f"{printable(out)}: not written, {pairs.name} would get other names or another order; {advice}"
            )
    return len(starts)


def _members(pairs: PairList) -> dict[Path, str]:
    """Return the name in the zip file of each file."""
    is_shared = len({pair.clean for pair in pairs.pairs}) < len(pairs.pairs)
    members: dict[Path, str] = {}
    for pair in pairs.pairs:
        clean = str(PurePosixPath(pair.name).with_name(pair.clean.stem)) if is_shared else pair.name
        folder = "" if pair.degraded is None else "target/"
        members.setdefault(pair.clean, f"{folder}{clean}{pair.clean.suffix}")
        if pair.degraded is not None:
            members[pair.degraded] = f"input/{pair.name}{pair.degraded.suffix}"
    return members


def _add(archive: zipfile.ZipFile, name: str, file: Path) -> None:
    info = zipfile.ZipInfo(name)  # dated 1980, stored without compression
    info.file_size = num_bytes(file)
    with open_file(file) as source, archive.open(info, "w") as target:
        shutil.copyfileobj(source, target)


def _shape(pairs: PairList) -> list[tuple[str, bool, int]]:
    """For each pair: name, whether it has no degraded file, and the first pair with the same clean file."""
    first: dict[Path, int] = {}
    return [(p.name, p.degraded is None, first.setdefault(p.clean, at)) for at, p in enumerate(pairs.pairs)]


def parser() -> argparse.ArgumentParser:
    """The arguments, for `parse_args` and for shell completion."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Copy a data set into OUT/000000.zip, OUT/000001.zip, ... and train with data.train=OUT, in the "
        "same order as from the files. For network disks on which opening many small files is slow.",
        epilog="exit codes: 0 done, 2 bad usage or files, 130 interrupted; OUT is written completely or not at all",
        allow_abbrev=False,
    )
    pairs_help = "as in data.train: a folder, DEGRADED:CLEAN, a card"
    parser.add_argument("-i", "--input", required=True, metavar="PAIRS", help=pairs_help)
    parser.add_argument("-o", "--output", type=path, required=True, metavar="OUT", help="a new folder")
    parser.add_argument("--pairs-per-shard", type=count(1), default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--split", choices=get_args(Split), default="train", help="default: train")
    root_help = "folder of the cards' files (default: data)"
    parser.add_argument("--root", type=path, default=Path("data"), metavar="FOLDER", help=root_help)
    return parser
