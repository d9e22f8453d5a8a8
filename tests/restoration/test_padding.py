"""Padding mirrors; what it adds is cut off again."""

import pytest
import torch
import torch.nn.functional as F

from restore_diff.restoration.tiling import crop_to, pad_to


def images(height, width):
    return torch.arange(2.0 * 3 * height * width).reshape(2, 3, height, width)


@pytest.mark.parametrize("target", [(5, 7), (8, 8), (9, 13)])
def test_padding_is_torchs_reflection_where_torch_can(target):
    given = images(5, 7)
    expected = F.pad(given, (0, target[1] - 7, 0, target[0] - 5), mode="reflect")
    assert torch.equal(pad_to(given, *target), expected)


def test_a_small_image_is_mirrored_again_and_again():
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert pad_to(row, 1, 9).flatten().tolist() == [1, 2, 3, 2, 1, 2, 3, 2, 1]


def test_a_side_of_one_pixel_is_repeated():
    assert torch.equal(pad_to(images(1, 4), 3, 4), images(1, 4).expand(2, 3, 3, 4))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 7), (33, 65)])
def test_cropping_undoes_padding(size):
    assert torch.equal(crop_to(pad_to(images(*size), 64, 72), *size), images(*size))


def test_padding_to_less_is_refused():
    with pytest.raises(ValueError, match="5 x 7 to the smaller 4 x 8"):
        pad_to(images(5, 7), 4, 8)
