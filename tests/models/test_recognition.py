"""The weather head of the U-Net."""

import pytest
import torch

from restore_diff.models.layers import WeatherHead
from restore_diff.models.unet import UNet
from restore_diff.settings import NetworkConfig

TINY = {"base_channels": 8, "channel_multipliers": (1, 2, 3), "num_blocks": 2, "num_groups": 4, "unshuffle": 2}
TINY |= {"attention_levels": (1,), "head_channels": 8, "hint": True}


def network() -> UNet:
    """With every parameter random, those that start at zero too."""
    model = UNet(NetworkConfig(**TINY, recognise=True))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(height=16, width=24):
    generator = torch.Generator().manual_seed(1)
    x_t, degraded = (torch.randn(2, 3, height, width, generator=generator) for _ in range(2))
    return x_t, torch.tensor([999, 999]), degraded


def test_before_training_every_kind_is_as_likely_as_not():
    assert torch.equal(UNet(NetworkConfig(**TINY, recognise=True)).recognise(*inputs()), torch.zeros(2, 5))


def test_it_reads_features_that_it_does_not_change():
    """It uses all of them, and training it sends no gradient into the network."""
    model = network()
    model.recognise(*inputs()).square().sum().backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched == {name for name, _ in model.named_parameters() if name.startswith("weather_head.")}
    assert model.weather_head.hidden.weight.grad.abs().amin(0).max() > 0
    assert (model.weather_head.hidden.weight.grad.abs().amax(0) > 0).all()


def test_the_last_features_are_among_those_it_reads():
    """Those of the middle, which see most: setting them to zero changes the belief."""
    model, given = network(), inputs()
    with torch.no_grad():
        before = model.recognise(*given)
        model.mid_block.register_forward_hook(lambda *_: torch.zeros(2, 24, 2, 3))
        assert (model.recognise(*given) - before).abs().max() > 1e-4


def test_layers_count_alike_however_large_their_features_are():
    torch.manual_seed(0)
    head, generator = WeatherHead([8, 16], 5), torch.Generator().manual_seed(2)
    torch.nn.init.normal_(head.out.weight, generator=generator)
    first, second = (torch.randn(2, width, 6, 5, generator=generator) for width in (8, 16))
    with torch.no_grad():
        logits = head([first, second])
        torch.testing.assert_close(head([first, 100 * second]), logits, rtol=0, atol=0.02)
        assert (head([first, second.roll(1, dims=1)]) - logits).abs().max() > 0.1


def test_it_sees_the_degraded_image_and_restores_as_without_it():
    model, (x_t, t, degraded) = network(), inputs()
    with torch.no_grad():
        assert (model.recognise(x_t, t, degraded) - model.recognise(x_t, t, degraded + 1)).abs().max() > 1e-3
        plain = UNet(NetworkConfig(**TINY))
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("weather_head.")})
        assert torch.equal(model(x_t, t, degraded), plain(x_t, t, degraded))


def test_its_statistics_are_in_float32_whatever_the_network_computes_in():
    model, given = network(), inputs()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model.recognise(*given)
    assert logits.dtype == torch.float32
    assert (logits - model.recognise(*given)).abs().max() < 0.1


def test_a_network_that_cannot_be_told_has_nothing_to_recognise():
    with pytest.raises(ValueError, match="recognise=true needs hint=true"):
        UNet(NetworkConfig(**{**TINY, "hint": False, "recognise": True}))
