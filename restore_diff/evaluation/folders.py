"""Score finished images of a folder, without a model: against clean images, by no-reference metrics, by FID and KID."""

import dataclasses
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from restore_diff.data.decoding import opened, read_size
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.names import DataError, PairPath, first_names, list_images, match_by_habit
from restore_diff.data.pairs import MOST_CROPPED_PX, crop_to_min, size_difference
from restore_diff.distributed import ALONE, Processes
from restore_diff.environment import environment
from restore_diff.evaluation.evaluator import Row, Scorer, flags_of
from restore_diff.evaluation.report import half_interval, summarise, write_csv, write_json
from restore_diff.metrics.distribution import LICENCE, RESIZE, InceptionDistance, NoReference
from restore_diff.metrics.perceptual import MetricUnavailable

T = TypeVar("T")


LOSSY = ("JPEG", "MPO", "HEIF", "AVIF")
"""Formats, as Pillow names them, whose compression changes the pixels."""


def score_folders(
    pred: Path,
    target: Path,
    scorer: Scorer,
    *,
    allow_jpeg: bool = False,
    may_crop: bool = False,
    processes: Processes = ALONE,
) -> list[Row]:
    """Score each image of `pred` against the image of the same name in `target`; one row per image.

    DataError, before anything is scored, where an image has no partner, where sizes differ (images are never resized;
    up to 8 px are cropped if `may_crop`), and for JPEG files in `pred` unless `allow_jpeg`: JPEG compression changes
    scores by more than methods differ.
    """
    pairs = pair_folders(pred, target)
    _check(pairs, allow_jpeg, MOST_CROPPED_PX if may_crop else 0)

    def score() -> list[Row]:
        return [_score(pair, scorer) for pair in _with_bar(pairs, pred.name, processes)]

    return processes.all_rows(score)


def pair_folders(pred: Path, target: Path) -> list[PairPath]:
    """Pair the images of two folders by name (`match_by_habit`). DataError where an image has no partner."""
    matches = match_by_habit(list_images(pred), list_images(target))
    problems = [
        f"{len(names)} images of {folder} have no partner in {other} ({first_names(names)})"
        for names, folder, other in ((matches.without_clean, pred, target), (matches.without_degraded, target, pred))
        if names
    ]
    if problems:
        raise DataError("; ".join(problems))
    return matches.pairs


def _with_bar(items: Sequence[T], label: str, processes: Processes = ALONE) -> Iterable[T]:
    """Yield the items of this process, with a progress bar in the first one."""
    mine = [items[index] for index in processes.positions(len(items))]
    return tqdm(mine, label, unit="image", disable=None if processes.is_first else True)


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
            if image.format in LOSSY:
                lossy.append(pair.degraded.name)
    if sizes:
        advice = f"--crop-to-min cuts at most {MOST_CROPPED_PX} px"
        raise DataError(f"{len(sizes)} images differ in size from their clean partners: {first_names(sizes)}; {advice}")
    if lossy and not allow_jpeg:
        raise DataError(
            f"{len(lossy)} images to score are JPEG, HEIC or AVIF, which changed them: {first_names(lossy)}; "
            "score PNG files, or use --allow-jpeg and report it with the numbers"
        )


# Images without ground truth.


def score_images(
    folder: Path, names: Sequence[str], device: torch.device, processes: Processes = ALONE, *, download: bool = False
) -> tuple[list[Row], NoReference]:
    """Score each image of `folder` by no-reference metrics; return the rows and the metrics.

    A missing score is NaN and flagged `small`. Missing weights are fetched only with `download`. Raises DataError,
    MetricUnavailable.
    """
    images = list(list_images(folder).items())
    metric = NoReference(names, device, download=download)

    def score() -> list[Row]:
        rows: list[Row] = []
        for name, path in _with_bar(images, folder.name, processes):
            image = read_rgb_uint8(path)
            scores = metric(image)
            flags = ("small",) * any(map(math.isnan, scores.values()))
            rows.append(Row(name, image.shape[-1], image.shape[-2], 0, scores, 0.0, flags))
        return rows

    return processes.all_rows(score), metric


def write_no_reference(folder: Path, rows: Sequence[Row], metric: NoReference) -> None:
    """Write no_reference.csv and no_reference.json to a folder, created if needed."""
    write_csv(folder / "no_reference.csv", rows)
    content = {
        "tool": f"pyiqa {metric.version}",
        "licence": LICENCE,
        "n": len(rows),
        "lower_is_better": metric.lower_is_better,
        "summary": {name: dataclasses.asdict(statistics) for name, statistics in summarise(rows).items()},
        "not_computed": metric.not_computed,
        "environment": environment() | {"argv": sys.argv},
    }
    write_json(folder / "no_reference.json", content)


def no_reference_table(rows: Sequence[Row], metric: NoReference) -> str:
    """Console table: tool and licence, one line per metric, and the metrics not computed."""
    lines = [f"{len(rows)} images without ground truth, by pyiqa {metric.version} ({LICENCE})"]
    for name, statistics in summarise(rows).items():
        better = "lower" if metric.lower_is_better[name] else "higher"
        mean = "no image has a score"
        if statistics.mean is not None:
            mean = f"{statistics.mean:.3f}{half_interval(statistics, 3)}"
        lines.append(f"  {name}  {mean}, {better} is better")
    return "\n".join(lines + [f"  {name} not computed: {reason}" for name, reason in metric.not_computed.items()])


# Distance between the set of restored images and the set of clean images: FID and KID.

MIN_IMAGES = 2048
"""Inception's number of features: with fewer images the covariances in FID are rank-deficient."""


def score_distributions(
    pairs: Sequence[PairPath], folder: Path, device: torch.device, *, download: bool = False
) -> list[str]:
    """Compute FID and KID of finished pairs; write distribution.json to `folder`; return lines to print."""
    found: dict[str, Any] = {"n": len(pairs), "resize": RESIZE, "environment": environment() | {"argv": sys.argv}}
    try:
        metric = InceptionDistance(device, download=download)
        finished = (read_rgb_uint8(pair.degraded) for pair in _with_bar(pairs, "FID, KID") if pair.degraded is not None)
        distances = metric(finished, (read_rgb_uint8(pair.clean) for pair in _with_bar(pairs, "FID, KID: clean")))
        found |= {"status": "computed", "tool": metric.tool} | distances._asdict()
        kid = f"KID {distances.kid:.5f} ± {distances.kid_std:.5f}"
        lines = [f"FID {distances.fid:.3f}, {kid} (n={len(pairs)}, {metric.tool}, {RESIZE})"]
        if len(pairs) < MIN_IMAGES:
            lines.append(f"warning: FID of {len(pairs)} images (fewer than 2,048) is biased upwards; use KID")
    except MetricUnavailable as reason:
        found |= {"status": "unavailable", "reason": str(reason)}
        lines = [f"FID, KID not computed: {reason}"]
    write_json(folder / "distribution.json", found)
    return lines
