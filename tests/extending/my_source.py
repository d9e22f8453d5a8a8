"""A data source of one's own: a text file that lists `degraded clean` paths, one pair a line."""

from pathlib import Path

from restore_diff import SOURCES
from restore_diff.data.names import PairPath
from restore_diff.data.pairs import PairList


def read_list(argument, split, root):
    """`data.train=list:pairs.txt`: the pairs of that file, for either split."""
    rows = [line.split() for line in Path(argument).read_text().splitlines() if line.strip()]
    pairs = [PairPath(Path(degraded), Path(clean), Path(clean).stem) for degraded, clean in rows]
    return PairList(argument, tuple(pairs))


SOURCES["list"] = read_list
