"""Finished images scored against clean ones: two folders, no model."""

from collections.abc import Callable, Sequence
from pathlib import Path

from restore_diff.data.checks import MOST_CROPPED_PX, size_difference
from restore_diff.data.decoding import opened, read_size
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.listing import DataError, first_names, list_images
from restore_diff.data.names import PairPath, match_by_habit
from restore_diff.data.pairs import crop_to_min
from restore_diff.evaluation.scoring import Row, Scorer, flags_of
from restore_diff.evaluation.sharing import WHOLE, Share


def score_folders(
    pred: Path,
    target: Path,
    scorer: Scorer,
    *,
    allow_jpeg: bool = False,
    may_crop: bool = False,
    on_image: Callable[[Row], None] | None = None,
    share: Share = WHOLE,
) -> list[Row]:
    """One row per image of `pred`, with its clean partner in `target` found by name; scored where `share` says.

    DataError, before anything is scored, where an image has no partner, where sizes differ, as nothing is ever resized,
    and cropped by a few pixels only if `may_crop`; and, unless allowed, for images in `pred` that are JPEG: saving as
    JPEG has changed them by more than methods differ.
    """
    pairs = pair_folders(pred, target)
    _check(pairs, allow_jpeg, MOST_CROPPED_PX if may_crop else 0)

    def score() -> list[Row]:
        rows: list[Row] = []
        for index in share.positions(len(pairs)):
            rows.append(_score(pairs[index], scorer))
            if on_image is not None:
                on_image(rows[-1])
        return rows

    return share.all_rows(score)


def pair_folders(pred: Path, target: Path) -> list[PairPath]:
    """The pairs by name, those of `data.names.match_by_habit`. DataError unless both folders are used up."""
    matches = match_by_habit(list_images(pred), list_images(target))
    problems = [
        f"{len(names)} images of {folder} have no partner in {other} ({first_names(names)})"
        for names, folder, other in ((matches.without_clean, pred, target), (matches.without_degraded, target, pred))
        if names
    ]
    if problems:
        raise DataError("; ".join(problems))
    return matches.pairs


def _score(pair: PairPath, scorer: Scorer) -> Row:
    assert pair.degraded is not None
    image, clean = read_rgb_uint8(pair.degraded), read_rgb_uint8(pair.clean)
    cropped = ("cropped",) * (image.shape != clean.shape)
    image, clean = crop_to_min(image, clean)
    scores = scorer(image, clean)
    height, width = clean.shape[-2:]
    return Row(pair.name, width, height, 0, scores, 0.0, flags_of(scores, image, clean) + cropped)


def _check(pairs: Sequence[PairPath], allow_jpeg: bool, most_cropped_px: int) -> None:
    sizes, lossy = [], []
    for pair in pairs:
        assert pair.degraded is not None
        of_both = read_size(pair.degraded), read_size(pair.clean)
        if size_difference(*of_both) > most_cropped_px:
            (height, width), (clean_height, clean_width) = of_both
            sizes.append(f"{pair.name} ({width}x{height} against {clean_width}x{clean_height})")
        with opened(pair.degraded) as image:
            if image.format == "JPEG":
                lossy.append(pair.degraded.name)
    if sizes:
        few = f"--crop-to-min cuts up to {MOST_CROPPED_PX} px"
        advice = f"more than {most_cropped_px} px is not a border that was cut" if most_cropped_px else few
        raise DataError(f"{len(sizes)} images differ in size from their clean partners: {first_names(sizes)}; {advice}")
    if lossy and not allow_jpeg:
        raise DataError(
            f"{len(lossy)} images to score are JPEG, which changed them: {first_names(lossy)}; "
            "score PNG files, or allow JPEG and say so beside the numbers"
        )
