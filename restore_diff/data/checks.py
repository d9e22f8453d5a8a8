"""Whether the images of a data set have the sizes that they are to be used with."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from restore_diff.data.finding import PairList
from restore_diff.data.listing import DataError, first_names
from restore_diff.data.names import PairPath
from restore_diff.data.pairs import different_sizes

Sizes = Mapping[Path, tuple[int, int]]
"""(height, width) of each file that can be read."""

MOST_CROPPED_PX = 8
"""Sides that differ by more are not those of one picture with its border cut."""


def files_of(pairs: PairList) -> Iterable[Path]:
    """Every file, clean and degraded; one that several pairs share, several times."""
    return (path for pair in pairs.pairs for path in (pair.clean, pair.degraded) if path is not None)


def require_equal_sizes(pairs: PairList, sizes: Sizes) -> int:
    """DataError that names the first pairs whose sizes differ; where they may be cut alike, by more than a few pixels.

    Returns how many differ and may. Nothing is said of files whose size is not known.
    """
    most = MOST_CROPPED_PX if pairs.crop_to_min else 0
    refused, num_cut = [], 0
    for pair in pairs.pairs:
        if pair.degraded is not None and pair.degraded in sizes and pair.clean in sizes:
            of_both = sizes[pair.degraded], sizes[pair.clean]
            difference = size_difference(*of_both)
            num_cut += 0 < difference <= most
            if difference > most:
                refused.append(different_sizes(pair, *of_both))
    if refused:
        rule = f"pairs differ in size by more than {most} px" if most else "pairs of different sizes"
        raise DataError(f"{pairs.name}: {len(refused)} {rule}: {first_names(refused)}")
    return num_cut


def size_difference(first: tuple[int, int], second: tuple[int, int]) -> int:
    """By how many pixels two (height, width) differ, at the side where they differ more."""
    return max(abs(left - right) for left, right in zip(first, second, strict=True))


def require_crops(pairs: PairList, sizes: Sizes, crop_size_px: int) -> None:
    """DataError that names the first images smaller than the crop."""
    small = list(dict.fromkeys(p.clean for p in pairs.pairs if _is_small(p, sizes, crop_size_px)))
    if small:
        named = first_names([f"{path} is {sizes[path][1]}x{sizes[path][0]}" for path in small])
        rule = f"{len(small)} images are smaller than data.crop_size_px={crop_size_px}"
        advice = "set data.on_small=pad or skip, or a smaller crop"
        raise DataError(f"{pairs.name}: {rule}: {named}; {advice}")


def without_small(pairs: PairList, sizes: Sizes, crop_size_px: int) -> PairList:
    """The pairs from which a crop can be taken; there may be none."""
    return replace(pairs, pairs=tuple(pair for pair in pairs.pairs if not _is_small(pair, sizes, crop_size_px)))


def _is_small(pair: PairPath, sizes: Sizes, crop_size_px: int) -> bool:
    return pair.clean in sizes and min(sizes[pair.clean]) < crop_size_px
