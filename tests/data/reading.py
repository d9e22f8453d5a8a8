"""Helpers of the tests of batches."""

import itertools

import torch

from restore_diff.data.loading import Batch, TrainingBatches


def half(clean, seeds, weathers):
    return clean / 2


def take(batches: TrainingBatches, num: int, step: int = 0) -> list[Batch]:
    return list(itertools.islice(batches.iter_from(step), num))


def names(batches: list[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.names]


def images(batch: Batch) -> torch.Tensor:
    return batch.clean if batch.degraded is None else torch.cat([batch.clean, batch.degraded], dim=1)


def same(left: list[Batch], right: list[Batch]) -> bool:
    return all(torch.equal(images(a), images(b)) and a[2:] == b[2:] for a, b in zip(left, right, strict=True))


def joined(parts: list[Batch]) -> Batch:
    degraded = torch.cat([part.degraded for part in parts if part.degraded is not None])
    positions = [position for part in parts for position in part.positions]
    weathers = [weather for part in parts for weather in part.weathers]
    return Batch(torch.cat([part.clean for part in parts]), degraded, positions, names(parts), weathers)
