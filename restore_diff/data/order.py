"""Which pair is drawn at which place of a training run, addressed by seed and place."""

import hashlib
import json
from functools import lru_cache

import torch
from torch import Tensor

from restore_diff.data.finding import PairList
from restore_diff.data.listing import DataError
from restore_diff.data.names import PairPath
from restore_diff.randomness import generator

BLOCK = 1000
"""Places over which the weights of a mixture hold exactly, as far as whole numbers can."""


class Order:
    """The pair at place k, for any k at the same cost.

    Without parts, each pass over the pairs is a permutation of its own. With parts, each block of places holds each
    part in proportion to its weight, shuffled; the j-th place of a part is number j of its own passes.
    """

    def __init__(self, pairs: PairList, seed: int):
        """DataError for a part without pairs."""
        num_parts = len(pairs.weights)
        self._parts = [tuple(p for p in pairs.pairs if p.part == part) for part in range(num_parts)] or [pairs.pairs]
        for number, of_part in enumerate(self._parts, start=1):
            if not of_part:
                where = f"{pairs.name}, part {number}" if pairs.weights else pairs.name
                raise DataError(f"{where}: no pair is left to train on, without held-out and small images")
        self._counts = share_out(pairs.weights, BLOCK) if pairs.weights else ()
        self._seed = seed

    @property
    def num_pairs(self) -> int:
        return sum(map(len, self._parts))

    def fingerprint(self) -> str:
        """Other for pairs of other names, number or weights; the same wherever they lie."""
        listed = [[pair.name for pair in pairs] for pairs in self._parts]
        return hashlib.sha256(json.dumps([self._counts, listed]).encode()).hexdigest()

    def pair(self, place: int) -> PairPath:
        """The pair at this place, 0 or more."""
        if not self._counts:
            return self._of_part(0, place, ())
        block, offset = divmod(place, BLOCK)
        parts, earlier = _mixture(self._counts, self._seed, block)
        part = int(parts[offset])
        return self._of_part(part, block * self._counts[part] + int(earlier[offset]), (part,))

    def _of_part(self, part: int, turn: int, address: tuple[int, ...]) -> PairPath:
        pairs = self._parts[part]
        epoch, offset = divmod(turn, len(pairs))
        return pairs[int(_permutation(len(pairs), self._seed, *address, epoch)[offset])]


def share_out(weights: tuple[float, ...], total: int) -> tuple[int, ...]:
    """Whole numbers in proportion to the weights, none of them 0, that sum to `total`.

    What rounding down leaves goes to those that lost most by it; what the smallest lack, the largest gives.
    """
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_loss = sorted(range(len(weights)), key=lambda part: counts[part] - exact[part])
    for part in by_loss[: total - sum(counts)]:
        counts[part] += 1
    for part in (part for part, count in enumerate(counts) if not count):
        counts[counts.index(max(counts))] -= 1
        counts[part] = 1
    return tuple(counts)


@lru_cache(maxsize=4)
def _mixture(counts: tuple[int, ...], seed: int, block: int) -> tuple[Tensor, Tensor]:
    """For each place of a block: its part, and how many places before it in the block are of that part."""
    shuffled = torch.randperm(sum(counts), generator=generator(seed, "mixture", block))
    parts = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))[shuffled]
    earlier = torch.empty_like(parts)
    for part, count in enumerate(counts):
        earlier[parts == part] = torch.arange(count)
    return parts, earlier


@lru_cache(maxsize=64)
def _permutation(num_pairs: int, seed: int, *address: int) -> Tensor:
    return torch.randperm(num_pairs, generator=generator(seed, "order", *address))
