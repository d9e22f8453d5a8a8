"""The order of training: exact shares of a mixture, whole passes of each part, addressed by place alone."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch

from restore_diff.data.loading import BLOCK, Order, share_out
from restore_diff.data.names import DataError, PairPath
from restore_diff.data.pairs import PairList
from restore_diff.randomness import generator


def listed(*num: int, weights: tuple[float, ...] = ()) -> PairList:
    pairs = [
        PairPath(None, Path(f"{part}/{i}"), f"{part}/{i}", None, part)
        for part, count in enumerate(num)
        for i in range(count)
    ]
    return PairList("toy", tuple(pairs), weights=weights)


def drawn(order: Order, first: int, last: int) -> list[PairPath]:
    return [order.pair(place) for place in range(first, last)]


def test_without_parts_each_pass_is_the_permutation_of_its_number():
    order = Order(listed(7), seed=3)
    for epoch in (0, 1, 5):
        expected = torch.randperm(7, generator=generator(3, "order", epoch)).tolist()
        assert [int(pair.clean.name) for pair in drawn(order, 7 * epoch, 7 * epoch + 7)] == expected


def test_every_block_holds_each_part_by_its_weight_in_another_order():
    order = Order(listed(40, 3, 9, weights=(2, 0.5, 1.5)), seed=0)
    blocks = [[pair.part for pair in drawn(order, b * BLOCK, (b + 1) * BLOCK)] for b in range(3)]
    assert all(Counter(block) == {0: 500, 1: 125, 2: 375} for block in blocks)
    assert blocks[0] != blocks[1] != blocks[2]
    for block in blocks:  # shuffled: no stretch is far from the shares
        assert abs(Counter(block[:200])[0] - 100) < 35


def test_every_part_makes_whole_passes_of_its_own():
    order = Order(listed(40, 3, 9, weights=(2, 0.5, 1.5)), seed=0)
    pairs = drawn(order, 0, 2 * BLOCK)
    for part, num in enumerate((40, 3, 9)):
        names = [pair.name for pair in pairs if pair.part == part]
        passes = [tuple(names[start : start + num]) for start in range(0, len(names) - num + 1, num)]
        assert all(len(set(one)) == num for one in passes) and len(set(passes)) > min(5, len(passes) // 2)


def test_a_place_can_be_entered_from_anywhere():
    pairs = listed(5, 11, weights=(1, 3))
    whole = drawn(Order(pairs, seed=1), 0, 2500)
    assert [Order(pairs, seed=1).pair(place) for place in (2499, 1000, 999, 0, 1700)] == [
        whole[place] for place in (2499, 1000, 999, 0, 1700)
    ]
    assert drawn(Order(pairs, seed=2), 0, 50) != whole[:50]


@pytest.mark.parametrize("case", range(300))
def test_shares_are_whole_numbers_above_0_that_sum_up(case):
    random = Random(case)
    weights = [10 ** random.uniform(-6, 6) for _ in range(random.randint(1, 50))]
    counts = share_out(tuple(weights), BLOCK)
    assert sum(counts) == BLOCK and min(counts) >= 1
    if min(weights) / sum(weights) > 1 / BLOCK:
        assert all(abs(n - BLOCK * w / sum(weights)) < 1 for n, w in zip(counts, weights, strict=True))


def test_a_part_without_pairs_is_refused():
    with pytest.raises(DataError, match="toy, part 2: no pair is left to train on"):
        Order(listed(3, 0, weights=(1, 1)), seed=0)
    with pytest.raises(DataError, match="toy: no pair is left"):
        Order(listed(0), seed=0)


def test_the_fingerprint_is_that_of_names_and_weights():
    prints = [
        Order(listed(*num, weights=weights), seed).fingerprint()
        for num, weights, seed in (((3, 4), (1, 1), 0), ((3, 4), (2, 2), 5), ((4, 4), (1, 1), 0), ((3, 4), (1, 2), 0))
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 3
