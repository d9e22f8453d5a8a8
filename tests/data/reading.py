"""Helpers of the tests of pairs and batches."""

import itertools
from pathlib import Path

import torch

from restore_diff.data.loading import Batch, TrainingBatches
from restore_diff.data.names import PairPath
from restore_diff.data.pairs import PairList


def parts_of(*num: int, weights: tuple[float, ...] = (), folder: str = "part{}") -> PairList:
    """Parts of so many photographs each."""
    each = [(part, i) for part, count in enumerate(num) for i in range(count)]
    pairs = [PairPath(None, Path(f"{folder.format(part)}/{i}.png"), f"{part}/{i}", None, part) for part, i in each]
    return PairList("toy", tuple(pairs), weights=weights)


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
