"""Divide a data set into train and test so that no scene is in both."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from restore_diff.data.archive import open_file
from restore_diff.data.leaks import groups
from restore_diff.data.names import DataError, PairPath, match_by_habit
from restore_diff.data.pairs import find_pairs
from restore_diff.doctor.sets import SPLITS, DataSet
from restore_diff.files import new_folder
from restore_diff.randomness import mix


class Division(NamedTuple):
    train: list[PairPath]
    test: list[PairPath]
    num_groups: int
    num_joined: int
    """Clean images that share their group with another."""


def divide(one: DataSet, test_share: float, seed: int) -> Division:
    """Move whole groups of matching clean images, in an order drawn by the seed, to test until it has its share.

    Pairs with an unreadable file are left out. DataError where the groups are too large to fill both sides.
    """
    readable = one.survey.pictures
    files = list(one.clean())
    members: dict[int, list[Path]] = {}
    for path, number in zip(files, groups(len(files), one.duplicates()), strict=True):
        members.setdefault(int(number), []).append(path)
    wanted = max(1, round(test_share * len(files)))
    chosen: set[Path] = set()
    for group in sorted(members.values(), key=lambda group: mix(seed, "split", min(path.stem for path in group))):
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
    if not chosen or len(chosen) == len(files):
        found = f"{len(files)} clean images in {len(members)} groups of the same scene"
        raise DataError(f"{one.label}: {found} cannot be divided with {wanted} of them for test")
    usable = [p for p in one.files if p.clean in readable and (p.degraded is None or p.degraded in readable)]
    test = [pair for pair in usable if pair.clean in chosen]
    train = [pair for pair in usable if pair.clean not in chosen]
    joined = sum(len(group) for group in members.values() if len(group) > 1)
    return Division(train, test, len(members), joined)


def write_split(division: Division, out: Path) -> None:
    """Write `out`/train and `out`/test, each with input/ and target/, or with clean photographs directly.

    The files are hard links, or copies where the disk cannot link. OSError where `out` exists, DataError where the
    written files are not paired as before; then nothing is left behind.
    """
    with new_folder(out) as part:
        for split, pairs in zip(SPLITS, (division.train, division.test), strict=True):
            files = _plan(pairs)
            for target, source in tqdm(files.items(), unit="file", desc=f"write {split}", disable=None):
                path = part / split / target
                path.parent.mkdir(parents=True, exist_ok=True)
                _link(source, path)
            num_found = len(find_pairs(str(part), split, Path()).pairs)
            if num_found != len(pairs):
                raise DataError(f"{out}: {len(pairs)} pairs were written to {split}, but {num_found} are found there")


def _plan(pairs: Sequence[PairPath]) -> dict[str, Path]:
    """Relative path -> file. Names are kept where they suffice to pair the files again, else numbered."""
    if all(pair.degraded is None for pair in pairs):
        return {pair.clean.name: pair.clean for pair in pairs}
    for names in (_own_names(pairs), _numbered_names(pairs)):
        clean = {names[pair.clean]: pair.clean for pair in pairs}
        degraded = {names[pair.degraded]: pair.degraded for pair in pairs if pair.degraded is not None}
        if _is_paired(pairs, degraded, clean):
            sides = (("input", degraded), ("target", clean))
            return {f"{side}/{name}{path.suffix}": path for side, files in sides for name, path in files.items()}
    raise DataError("no file names keep the pairs apart; rename the files so that each pair shares a name")


def _own_names(pairs: Sequence[PairPath]) -> dict[Path, str]:
    degraded = {pair.degraded: pair.name for pair in pairs if pair.degraded is not None}
    common = Path(os.path.commonpath([pair.clean.parent for pair in pairs]))
    return degraded | {pair.clean: pair.clean.relative_to(common).with_suffix("").as_posix() for pair in pairs}


def _numbered_names(pairs: Sequence[PairPath]) -> dict[Path, str]:
    """00001 for a clean image; 00001_1, 00001_2, ... for its degraded versions."""
    clean = {path: f"{at:05d}" for at, path in enumerate(dict.fromkeys(pair.clean for pair in pairs), 1)}
    versions: dict[Path, int] = {}
    names: dict[Path, str] = dict(clean)
    for pair in pairs:
        if pair.degraded is not None:
            versions[pair.clean] = versions.get(pair.clean, 0) + 1
            names[pair.degraded] = f"{clean[pair.clean]}_{versions[pair.clean]}"
    return names


def _is_paired(pairs: Sequence[PairPath], degraded: Mapping[str, Path], clean: Mapping[str, Path]) -> bool:
    """Whether the naming rules reproduce the pairs."""
    try:
        found = match_by_habit(degraded, clean)
    except DataError:
        return False
    return {(p.degraded, p.clean) for p in found.pairs} == {(p.degraded, p.clean) for p in pairs}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        with open_file(source) as image, target.open("xb") as copy:
            shutil.copyfileobj(image, copy)
