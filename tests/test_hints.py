"""Weather labels as the hint of a network."""

import pytest
import torch

from restore_diff.labels import LABELS, decided, hints, hints_with_dropout
from restore_diff.settings import NetworkConfig


def test_each_kind_has_its_place_and_two_at_once_have_both():
    assert hints(["none", "rain", "haze", "snow", "raindrop"]).equal(torch.eye(5))
    assert hints(["rain+haze", None]).tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="hail"):
        hints(["hail"])


def test_some_are_kept_secret_whichever_batch_they_come_in():
    weathers = ["rain"] * 4000
    told = hints_with_dropout(weathers, range(4000), 0.3, seed=1)
    assert told[:, LABELS.index("rain")].mean().item() == pytest.approx(0.7, abs=0.03)  # 4 standard deviations
    part = hints_with_dropout(weathers[:10], range(1000, 1010), 0.3, seed=1)
    assert torch.equal(part, told[1000:1010])
    assert not torch.equal(told, hints_with_dropout(weathers, range(4000), 0.3, seed=2))
    assert hints_with_dropout(weathers, range(4000), 1.0, seed=1).sum() == 0
    assert hints_with_dropout(weathers, range(4000), 0.0, seed=1).sum() == 4000


def test_labels_come_from_the_checkpoint_so_that_a_sixth_kind_breaks_no_weights():
    assert hints(["smoke+rain"], [*LABELS, "smoke"]).tolist() == [[0, 1, 0, 0, 0, 1]]
    assert NetworkConfig().labels == LABELS


def logits_of(*beliefs):
    return torch.tensor(beliefs).logit()


def test_a_belief_becomes_a_hint_where_weather_is_sure_and_no_other_kind_is_likely():
    """Weather is on or off, as in training."""
    assert torch.equal(decided(logits_of([0.01, 0.95, 0.2, 0.2, 0.2])), hints(["rain"]))
    doubtful = logits_of([0.01, 0.95, 0.55, 0.2, 0.2], [0.01, 0.55, 0.2, 0.2, 0.2], [0.1, 0.95, 0.95, 0.2, 0.2])
    assert torch.equal(decided(doubtful), hints([None, None, None]))


def test_what_may_be_clean_is_told_so_as_far_as_it_is_believed():
    unseen = logits_of([0.5, 0.2, 0.2, 0.2, 0.2], [0.99, 0.2, 0.2, 0.2, 0.2], [0.1, 0.2, 0.2, 0.2, 0.2])
    torch.testing.assert_close(decided(unseen), torch.tensor([[0.5], [0.99], [0.0]]) * hints(["none"]))
    in_doubt = logits_of([0.25, 0.2, 0.6, 0.2, 0.2], [0.6, 0.95, 0.2, 0.2, 0.2])
    torch.testing.assert_close(decided(in_doubt), torch.tensor([[0.25], [0.6]]) * hints(["none"]))
