"""Validation pairs, held out of the training set so that the test set chooses nothing."""

from dataclasses import replace
from pathlib import Path

from restore_diff.data.pairs import PairList
from restore_diff.randomness import mix


def hold_out(pairs: PairList, num_clean: int) -> tuple[PairList, PairList | None]:
    """(training pairs, validation pairs): `num_clean` clean images leave the training set, at most a fifth of them.

    Which ones depends on their names alone; all degraded versions of a clean image go together, and the first of them
    is the one to validate on. None where nothing can be spared.
    """
    clean = sorted({pair.clean for pair in pairs.pairs}, key=_rank)
    held = set(clean[: min(num_clean, len(clean) // 5)])
    if not held:
        return pairs, None
    first = {pair.clean: pair for pair in reversed(pairs.pairs) if pair.clean in held}
    validation = tuple(sorted(first.values(), key=lambda pair: pair.name))
    remaining = tuple(pair for pair in pairs.pairs if pair.clean not in held)
    return replace(pairs, pairs=remaining), replace(pairs, pairs=validation, notes=())


def _rank(path: Path) -> int:
    return mix(0, "validation", path.stem)
