"""What a network is told of the weather."""

import pytest
import torch

from restore_diff.hints import KINDS, decided, hints, hints_with_dropout


def test_each_kind_has_its_place_and_two_at_once_have_both():
    assert hints(["none", "rain", "haze", "snow", "raindrop"]).equal(torch.eye(5))
    assert hints(["rain+haze", None]).tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="hail"):
        hints(["hail"])


def test_some_are_kept_secret_whichever_batch_they_come_in():
    weathers = ["rain"] * 4000
    told = hints_with_dropout(weathers, range(4000), 0.3, seed=1)
    assert told[:, KINDS.index("rain")].mean().item() == pytest.approx(0.7, abs=0.03)  # 4 standard deviations
    part = hints_with_dropout(weathers[:10], range(1000, 1010), 0.3, seed=1)
    assert torch.equal(part, told[1000:1010])
    assert not torch.equal(told, hints_with_dropout(weathers, range(4000), 0.3, seed=2))
    assert hints_with_dropout(weathers, range(4000), 1.0, seed=1).sum() == 0
    assert hints_with_dropout(weathers, range(4000), 0.0, seed=1).sum() == 4000


def test_every_weather_of_the_renderer_is_a_hint():
    from typing import get_args

    from restore_diff.data.weather.config import Weather

    assert hints(get_args(Weather)).shape == (8, 5)


def test_a_belief_becomes_a_hint_where_one_weather_is_likely_and_no_other():
    """Weather is on or off, as in training; where none is likely, the belief that there is none counts as it is."""
    logits = torch.tensor([[-5.0, 2, -1, -1, -1], [-5, 2, 0.1, -1, -1], [1, 2, -1, -1, -1], [-5, 0.5, -1, -1, -1]])
    assert torch.equal(decided(logits), hints(["rain", None, None, None]))
    doubt = decided(torch.tensor([[0.0, -1, -1, -1, -1], [30, -1, -1, -1, -1], [-30, -1, -1, -1, -1]]))
    torch.testing.assert_close(doubt, torch.tensor([[0.5], [1], [0]]) * hints(["none"]))
