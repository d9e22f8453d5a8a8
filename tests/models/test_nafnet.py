"""The network of gates: zero at first, every part in use, each pixel normalised by itself, told the weather or not."""

import pytest
import torch

from restore_diff.hints import hints
from restore_diff.models.config import NetworkConfig
from restore_diff.models.nafnet import NAFNet, PixelNorm
from restore_diff.models.networks import make_network
from restore_diff.models.unet import UNet

TINY = {"kind": "nafnet", "base_channels": 8, "channel_multipliers": (1, 2, 3), "num_blocks": 1, "mid_blocks": 2}


def network(**changes) -> NAFNet:
    """A tiny network with every parameter random, those that start at zero too."""
    model = make_network(NetworkConfig(**{**TINY, "unshuffle": 2, "hint": True, **changes})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            scale = 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            parameter += "norm" in name and name.endswith("weight")
    assert isinstance(model, NAFNet)
    return model


def inputs(size=(16, 24), batch=2):
    generator = torch.Generator().manual_seed(1)
    x_t, degraded = (torch.randn(batch, 3, *size, generator=generator) for _ in range(2))
    return x_t, torch.tensor([3, 777])[:batch], degraded


def test_an_untrained_network_puts_out_zero():
    model = NAFNet(NetworkConfig(**TINY))
    x_t, t, degraded = inputs()
    assert torch.equal(model(x_t, t, degraded), torch.zeros_like(x_t))


def test_every_parameter_takes_part():
    model = network()
    x_t, t, degraded = inputs()
    model(x_t, t, degraded, hints(["rain+haze", "none"])).square().mean().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-9]
    assert dead == []


@pytest.mark.parametrize("which", ["x_t", "t", "degraded"])
def test_the_output_depends_on_each_input(which):
    model, (x_t, t, degraded) = network(), inputs()
    changed = {"x_t": (x_t + 1, t, degraded), "t": (x_t, t + 100, degraded), "degraded": (x_t, t, degraded + 1)}[which]
    with torch.no_grad():
        assert (model(x_t, t, degraded) - model(*changed)).abs().max() > 1e-3


def test_a_pixel_sees_nothing_beyond_its_reach():
    """No statistics of the whole image: far from a change, nothing changes. So a tile computes what the image does."""
    model = network(channel_multipliers=(1, 2))
    x_t, t, degraded = inputs((8, 256), batch=1)
    changed = degraded.clone()
    changed[..., :8] += 3
    with torch.no_grad():
        difference = (model(x_t, t, degraded) - model(x_t, t, changed)).abs().amax((0, 1, 2))
    assert difference[:8].min() > 0
    assert difference[128:].max() == 0


def test_pixels_are_normalised_over_their_channels():
    features = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    found = PixelNorm(6)(features)
    assert found.mean(1).abs().max() < 1e-6
    assert (found.var(1, unbiased=False) - 1).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["unet", "nafnet"])
def test_a_hint_changes_the_output_and_no_hint_is_all_zeros(kind):
    unet = {"num_groups": 8, "attention_levels": (), "mid_attention": False}
    model = (
        network(kind="nafnet")
        if kind == "nafnet"
        else make_network(NetworkConfig(**TINY | unet | {"kind": kind, "hint": True}))
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if kind == "unet":
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
        x_t, t, degraded = inputs()
        blind, rain = model(x_t, t, degraded), model(x_t, t, degraded, hints(["rain"]))
        assert (blind - rain).abs().max() > 1e-4
        assert torch.equal(blind, model(x_t, t, degraded, hints([None, None])))
        one_each = model(x_t, t, degraded, hints(["rain", None]))
    assert (one_each[0] - rain[0]).abs().max() < 1e-5
    assert (one_each[1] - blind[1]).abs().max() < 1e-5


def test_a_network_without_hint_has_the_parameters_that_it_always_had():
    assert not [name for name in UNet(NetworkConfig(base_channels=64)).state_dict() if "weather" in name]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float64, 1e-4)])
def test_other_precisions_compute_the_same(dtype, tolerance):
    x_t, t, degraded = inputs()
    model = network()
    with torch.no_grad():
        expected = model(x_t, t, degraded)
        found = model.to(dtype)(x_t.to(dtype), t, degraded.to(dtype))
    assert (found.double() - expected.double()).abs().max() < tolerance * expected.abs().max()


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiples of 8, got 16 x 20"):
        network()(*inputs((16, 20)))
