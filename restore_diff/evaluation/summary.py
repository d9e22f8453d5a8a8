"""Statistics over a test set: seeds are averaged within an image first, then images."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from restore_diff.evaluation.scoring import INPUT, Row
from restore_diff.randomness import generator

PSNR_CAP_DB = 100.0
"""What identical images, whose PSNR is infinite, count as in a mean."""

GAIN = "_gain"
PERFECT = {"psnr": math.inf, "ssim": 1.0, "lpips": 0.0}
NUM_RESAMPLES = 10_000
LEAST_IMAGES_FOR_T = 30


@dataclass(frozen=True)
class Statistics:
    """Of one column. None where too few images have a value."""

    mean: float | None
    std: float | None
    """Sample standard deviation over images."""
    median: float | None
    ci95: tuple[float, float] | None
    """95 % interval of the mean over images."""
    min: float | None
    max: float | None
    n: int
    """Images in the mean."""
    n_identical: int
    """Images that score as identical to the clean one, usually because ground truth was scored against itself."""
    n_nonfinite: int
    """Images left out of all this, because a seed of theirs has no score."""
    seed_std: float | None
    """Standard deviation between the seeds of an image, root mean square over images; None with one seed."""


def summarise(rows: Sequence[Row]) -> dict[str, Statistics]:
    """Statistics by column of the rows, and by column with `GAIN` at the end where the input was scored as well.

    A gain is the score of the restored image minus that of its input; for LPIPS, less than 0 is better.
    """
    columns = [column for column in rows[0].scores if not column.endswith(INPUT)] if rows else []
    summary: dict[str, Statistics] = {}
    for column in columns:
        restored = image_values(rows, column)
        summary[column] = _statistics(restored, column)
        if column + INPUT in rows[0].scores:
            degraded = image_values(rows, column + INPUT)
            summary[column + INPUT] = _statistics(degraded, column + INPUT)
            gains = {name: capped(values, column) - capped(degraded[name], column) for name, values in restored.items()}
            summary[column + GAIN] = _statistics(gains, column + GAIN)
    return summary


def image_values(rows: Iterable[Row], column: str) -> dict[str, Tensor]:
    """The values of each image by name, sorted, one per seed."""
    values: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: (row.name, row.seed)):
        values.setdefault(row.name, []).append(row.scores[column])
    return {name: torch.tensor(seeds, dtype=torch.float64) for name, seeds in values.items()}


def capped(values: Tensor, column: str) -> Tensor:
    """What enters a mean: of a PSNR, at most PSNR_CAP_DB; NaN stays."""
    return values.clamp(max=PSNR_CAP_DB) if column.startswith("psnr") else values


def confidence_interval(values: Tensor) -> tuple[float, float] | None:
    """95 % interval of the mean: Student's t from 30 values on, else the bootstrap; None below 2 values."""
    if len(values) < LEAST_IMAGES_FOR_T:
        return bootstrap_interval(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * values.std().item() / math.sqrt(len(values))
    return values.mean().item() - half, values.mean().item() + half


def bootstrap_interval(values: Tensor) -> tuple[float, float] | None:
    """95 % percentile interval of the mean by 10,000 resamples, always the same ones; None below 2 values."""
    num_values = len(values)
    if num_values < 2:
        return None
    random = generator(0, "bootstrap")
    means: list[Tensor] = []
    while len(means) * (chunk := max(1, 1_000_000 // num_values)) < NUM_RESAMPLES:
        means.append(values[torch.randint(num_values, (chunk, num_values), generator=random)].mean(dim=1))
    bounds = torch.tensor([0.025, 0.975], dtype=values.dtype)
    low, high = torch.cat(means)[:NUM_RESAMPLES].quantile(bounds).tolist()
    return low, high


def _statistics(images: dict[str, Tensor], column: str) -> Statistics:
    perfect = None if column.endswith(GAIN) else PERFECT.get(column.split("_")[0])
    finite = [capped(seeds, column) for seeds in images.values() if not seeds.isnan().any()]
    means = torch.tensor([seeds.mean().item() for seeds in finite], dtype=torch.float64)
    several_seeds = bool(finite) and len(finite[0]) > 1
    return Statistics(
        mean=means.mean().item() if finite else None,
        std=means.std().item() if len(finite) > 1 else None,
        median=means.quantile(0.5).item() if finite else None,
        ci95=confidence_interval(means),
        min=means.min().item() if finite else None,
        max=means.max().item() if finite else None,
        n=len(finite),
        n_identical=0 if perfect is None else sum(bool((seeds == perfect).any()) for seeds in images.values()),
        n_nonfinite=len(images) - len(finite),
        seed_std=torch.stack([seeds.var() for seeds in finite]).mean().sqrt().item() if several_seeds else None,
    )
