"""The order of training and the augmentation of a crop: addressed by place, uniform, alike for both images."""

from collections import Counter
from random import Random

import pytest
import torch
from reading import parts_of

from restore_diff.data.loading import BLOCK, Order, augment, pad_to, random_crops, share_out
from restore_diff.data.names import DataError, PairPath
from restore_diff.randomness import generator


def drawn(order: Order, first: int, last: int) -> list[PairPath]:
    return [order.pair(place) for place in range(first, last)]


def test_without_parts_each_pass_is_the_permutation_of_its_number():
    order = Order(parts_of(7), seed=3)
    for epoch in (0, 1, 5):
        expected = torch.randperm(7, generator=generator(3, "order", epoch)).tolist()
        assert [int(pair.clean.stem) for pair in drawn(order, 7 * epoch, 7 * epoch + 7)] == expected


def test_every_block_holds_each_part_by_its_weight_in_another_order():
    order = Order(parts_of(40, 3, 9, weights=(2, 0.5, 1.5)), seed=0)
    blocks = [[pair.part for pair in drawn(order, b * BLOCK, (b + 1) * BLOCK)] for b in range(3)]
    assert all(Counter(block) == {0: 500, 1: 125, 2: 375} for block in blocks)
    assert blocks[0] != blocks[1] != blocks[2]
    assert all(abs(Counter(block[:200])[0] - 100) < 35 for block in blocks)  # shuffled


def test_every_part_makes_whole_passes_of_its_own():
    pairs = drawn(Order(parts_of(40, 3, 9, weights=(2, 0.5, 1.5)), seed=0), 0, 2 * BLOCK)
    for part, num in enumerate((40, 3, 9)):
        names = [pair.name for pair in pairs if pair.part == part]
        passes = [tuple(names[start : start + num]) for start in range(0, len(names) - num + 1, num)]
        assert all(len(set(one)) == num for one in passes) and len(set(passes)) > min(5, len(passes) // 2)


def test_a_place_can_be_entered_from_anywhere():
    pairs = parts_of(5, 11, weights=(1, 3))
    whole = drawn(Order(pairs, seed=1), 0, 2500)
    for place in (2499, 1000, 999, 0, 1700):
        assert Order(pairs, seed=1).pair(place) == whole[place]
    assert drawn(Order(pairs, seed=2), 0, 50) != whole[:50]


def test_shares_are_positive_integers_that_sum_up():
    for case in range(300):
        random = Random(case)
        weights = [10 ** random.uniform(-6, 6) for _ in range(random.randint(1, 50))]
        counts = share_out(tuple(weights), BLOCK)
        assert sum(counts) == BLOCK and min(counts) >= 1
        if min(weights) / sum(weights) > 1 / BLOCK:
            assert all(abs(n - BLOCK * w / sum(weights)) < 1 for n, w in zip(counts, weights, strict=True))


def test_a_part_without_pairs_is_refused():
    with pytest.raises(DataError, match="toy, part 2: no pair is left to train on"):
        Order(parts_of(3, 0, weights=(1, 1)), seed=0)
    with pytest.raises(DataError, match="toy: no pair is left"):
        Order(parts_of(0), seed=0)


def test_the_fingerprint_depends_on_names_and_weights():
    cases = (((3, 4), (1, 1), 0), ((3, 4), (2, 2), 5), ((4, 4), (1, 1), 0), ((3, 4), (1, 2), 0))
    prints = [Order(parts_of(*num, weights=weights), seed).fingerprint() for num, weights, seed in cases]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_both_images_of_a_pair_get_the_same_augmentation():
    clean = torch.arange(3 * 20 * 30).reshape(3, 20, 30)
    for k in range(50):
        first, second = augment([clean, clean + 7], 8, "flips_and_turns", generator(0, k))
        assert first.shape == (3, 8, 8) and torch.equal(first + 7, second)


def test_crops_are_placed_uniformly_up_to_every_border():
    image = torch.arange(5 * 6).reshape(1, 5, 6)
    corners = Counter(int(random_crops([image], 3, generator(0, k))[0][0, 0, 0]) for k in range(2400))
    assert sorted(corners) == [6 * top + left for top in range(3) for left in range(4)]
    assert max(abs(count - 200) for count in corners.values()) < 60  # 4.4 standard deviations
    with pytest.raises(ValueError, match="9 px does not fit into 30x8"):
        random_crops([torch.zeros(3, 8, 30)], 9, generator(0))


@pytest.mark.parametrize(("augmentation", "num_cases"), [("none", 1), ("flips", 4), ("flips_and_turns", 8)])
def test_each_symmetry_of_the_augmentation_is_equally_likely(augmentation, num_cases):
    image = torch.arange(9).reshape(1, 3, 3)
    seen = Counter(tuple(augment([image], 3, augmentation, generator(0, k))[0].flatten().tolist()) for k in range(1600))
    assert len(seen) == num_cases
    assert max(abs(count - 1600 / num_cases) for count in seen.values()) < 90


def test_padding_mirrors_once_then_repeats_evenly_at_both_ends():
    image = torch.tensor([[[0, 1, 2]]], dtype=torch.uint8)
    padded = pad_to(image, 9)
    assert padded.shape == (1, 9, 9) and padded[0, 4].tolist() == [2, 2, 1, 0, 1, 2, 1, 0, 0]
    assert torch.equal(padded, padded[:, :1].expand(1, 9, 9))  # a single row is repeated
    assert torch.equal(pad_to(image, 1), image)
