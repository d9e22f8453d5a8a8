"""Averaged weights."""

import pytest
import torch
from torch import nn

from restore_diff.training.optimisation import ExponentialMovingAverage


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def move(model: nn.Module, seed: int) -> None:
    """New parameters and new buffers."""
    model(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))


def test_the_average_is_the_recursion_with_the_warmed_up_decay():
    model = network()
    ema = ExponentialMovingAverage(model, decay=0.3)
    expected = model[0].weight.detach().double()
    for n, decay in ((1, 2 / 11), (2, 3 / 12), (3, 0.3), (4, 0.3)):
        move(model, n)
        ema.update(n)
        expected = decay * expected + (1 - decay) * model[0].weight.detach().double()
    torch.testing.assert_close(ema.weights["0.weight"].double(), expected, rtol=0, atol=1e-6)


def test_buffers_are_copied_not_averaged():
    model = network()
    ema = ExponentialMovingAverage(model, decay=0.99)
    move(model, 1)
    ema.update(1)
    assert torch.equal(ema.weights["1.running_mean"], model[1].running_mean)
    assert ema.weights["1.num_batches_tracked"] == 1


def test_the_average_is_in_place_inside_and_the_own_weights_come_back_even_after_an_error():
    model = network()
    ema = ExponentialMovingAverage(model, decay=0.9)
    move(model, 1)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyError), ema.applied(model) as averaged:
        assert averaged is model
        assert all(torch.equal(value, ema.weights[name]) for name, value in model.state_dict().items())
        assert not torch.equal(model[0].weight, own["0.weight"])
        raise KeyError
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_the_average_is_no_alias_of_the_weights_after_validation():
    model = network()
    ema = ExponentialMovingAverage(model, decay=0.9)
    with ema.applied(model):
        pass
    before = ema.weights["0.weight"].clone()
    move(model, 1)
    assert torch.equal(ema.weights["0.weight"], before)


def test_weights_of_another_shape_or_name_are_refused_by_name():
    ema = ExponentialMovingAverage(network(), decay=0.9)
    with pytest.raises(ValueError, match=r"0\.weight: shape \(1,\)"):
        ema.load(ema.weights | {"0.weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"names of weights differ: extra"):
        ema.load(ema.weights | {"extra": torch.ones(1)})
