"""Crops, flips and turns treat the images of a pair alike and reach every case equally often."""

from collections import Counter

import pytest
import torch

from restore_diff.data.loading import augment, pad_to, random_crops
from restore_diff.randomness import generator


def test_both_images_of_a_pair_get_the_same_crop_flips_and_turns():
    clean = torch.arange(3 * 20 * 30).reshape(3, 20, 30)
    for k in range(50):
        first, second = augment([clean, clean + 7], 8, "flips_and_turns", generator(0, k))
        assert first.shape == (3, 8, 8) and torch.equal(first + 7, second)


def test_crops_are_placed_uniformly_up_to_every_border():
    image = torch.arange(5 * 6).reshape(1, 5, 6)
    corners = Counter(int(random_crops([image], 3, generator(0, k))[0][0, 0, 0]) for k in range(2400))
    assert sorted(corners) == [6 * top + left for top in range(3) for left in range(4)]
    assert max(abs(count - 200) for count in corners.values()) < 60  # 4.4 standard deviations


@pytest.mark.parametrize(("augmentation", "num_cases"), [("none", 1), ("flips", 4), ("flips_and_turns", 8)])
def test_each_symmetry_of_the_augmentation_is_as_likely(augmentation, num_cases):
    image = torch.arange(9).reshape(1, 3, 3)
    seen = Counter(tuple(augment([image], 3, augmentation, generator(0, k))[0].flatten().tolist()) for k in range(1600))
    assert len(seen) == num_cases
    assert max(abs(count - 1600 / num_cases) for count in seen.values()) < 90


def test_a_crop_that_does_not_fit_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match="9 px does not fit into 30x8"):
        random_crops([torch.zeros(3, 8, 30)], 9, generator(0))


def test_padding_mirrors_once_and_then_repeats_evenly_at_both_ends():
    image = torch.tensor([[[0, 1, 2]]], dtype=torch.uint8)
    padded = pad_to(image, 9)
    assert padded.shape == (1, 9, 9) and padded[0, 4].tolist() == [2, 2, 1, 0, 1, 2, 1, 0, 0]
    assert torch.equal(padded, padded[:, :1].expand(1, 9, 9))  # a single row is repeated
    assert torch.equal(pad_to(image, 1), image)
