"""Validation pairs, held out of the training set so that the test set chooses nothing."""

from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from restore_diff.data.copies import copies_of
from restore_diff.data.finding import PairList
from restore_diff.data.names import PairPath, side_and_name
from restore_diff.randomness import mix


def hold_out(pairs: PairList, num_clean: int) -> tuple[PairList, PairList | None]:
    """(training pairs, validation pairs): `num_clean` clean images leave the training set, at most a fifth of them.

    Which ones depends on their names alone; all degraded versions of a clean image go together, and the first of them
    is the one to validate on. Of joined parts, each gives up to a fifth of its own in turn, and validates what it has
    of the images held out; a copy of one, byte for byte, leaves the training set too. None where nothing can be spared.
    """
    held = _choose(pairs, num_clean)
    if not held:
        return pairs, None
    first: dict[tuple[int, Path], PairPath] = {}
    for pair in pairs.pairs:
        if pair.clean in held:
            first.setdefault((pair.part, pair.clean), pair)
    validation = tuple(sorted(first.values(), key=lambda pair: pair.name))
    gone = held | copies_of(held, {pair.clean for pair in pairs.pairs}) if pairs.weights else held
    remaining = tuple(pair for pair in pairs.pairs if pair.clean not in gone)
    return replace(pairs, pairs=remaining), replace(pairs, pairs=validation, notes=(), weights=())


def _choose(pairs: PairList, num_clean: int) -> set[Path]:
    parts = [{p.clean for p in pairs.pairs if p.part == part} for part in range(len(pairs.weights) or 1)]
    spared = [sorted(clean, key=lambda path: (_rank(path), path))[: len(clean) // 5] for clean in parts]
    held: set[Path] = set()
    for path in (path for turn in zip_longest(*spared) for path in turn if path is not None):
        if len(held) < num_clean and all(len(held & clean) < len(clean) // 5 for clean in parts if path in clean):
            held.add(path)
    return held


def _rank(path: Path) -> int:
    return mix(0, "validation", side_and_name(path.name)[1])
