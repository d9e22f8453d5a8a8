"""Both networks compute the function that their settings name, whatever the memory format and the precision."""

import pytest
import torch
import torch.nn.functional as F

from restore_diff.labels import hints
from restore_diff.models.layers import WeatherHead, sinusoids
from restore_diff.models.unet import UNet, make_network
from restore_diff.settings import NetworkConfig

TINY = {"base_channels": 16, "channel_multipliers": (1, 2), "num_blocks": 1, "attention_levels": (1,), "num_groups": 8}
TINY |= {"head_channels": 8}
LEVELS = {
    "unet": lambda num: {**TINY, "channel_multipliers": (1, *[2] * (num - 1)), "attention_levels": (num - 1,)},
    "transformer": lambda num: {
        "kind": "transformer",
        "options": {"channels": 8, "head_channels": 4, "num_blocks": (1,) * num, "token_channels": 6},
    },
}
"""Settings of a tiny network of each kind with this number of levels."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(kind="unet", num_levels=2, **changes):
    """A tiny network with every parameter random, those that start at zero too."""
    model, generator = make_network(NetworkConfig(**{**LEVELS[kind](num_levels), **changes})).eval(), seeded()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            scale = 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            parameter += "norm" in name and name.endswith("weight")
            parameter += "temperature" in name
    return model


def inputs(size=(16, 24), batch=2, channels=3):
    generator = seeded(1)
    x_t, degraded = (torch.randn(batch, channels, *size, generator=generator) for _ in range(2))
    return x_t, torch.tensor([3, 777, 41][:batch]), degraded


@pytest.fixture(params=LEVELS)
def kind(request) -> str:
    return request.param


# Of every network.


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_an_untrained_network_puts_out_zero(kind, unshuffle):
    model, (x_t, t, degraded) = make_network(NetworkConfig(**LEVELS[kind](2), unshuffle=unshuffle)), inputs()
    assert torch.equal(model(x_t, t, degraded), torch.zeros_like(x_t))


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_every_row_of_every_parameter_takes_part(kind, unshuffle):
    model = network(kind, 3, hint=True, recognise=True, unshuffle=unshuffle)
    x_t, t, degraded = inputs()
    output = model(x_t, t, degraded, weather=hints(["rain", "none+haze+snow+raindrop"]))
    (output.square().mean() + model.recognise(x_t, t, degraded).square().mean()).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.flatten(1 % p.dim()).any(-1).all()]
    # The gradient of to_k.bias is zero by mathematics: softmax does not see what is added to all keys.
    assert [name for name in still if not name.endswith("to_k.bias")] == []


def test_each_image_of_a_batch_is_computed_alone(kind):
    model, (x_t, t, degraded) = network(kind), inputs()
    with torch.no_grad():
        together = model(x_t, t, degraded)
        alone = torch.cat([model(x_t[i : i + 1], t[i : i + 1], degraded[i : i + 1]) for i in range(2)])
    assert (together - alone).abs().max() < 1e-5
    assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_output_depends_on_each_input(kind, which):
    model, given = network(kind), inputs()
    changed = [tensor + 100 * (place == which) for place, tensor in enumerate(given)]
    with torch.no_grad():
        assert (model(*given) - model(*changed)).abs().max() > 1e-3


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_channels_last_gives_the_same_values(kind, unshuffle):
    model, (x_t, t, degraded) = network(kind, unshuffle=unshuffle), inputs()
    with torch.no_grad():
        expected = model(x_t, t, degraded)
        last = {"memory_format": torch.channels_last}
        model.to(**last)
        assert (model(x_t.to(**last), t, degraded.to(**last)) - expected).abs().max() < 1e-5
        assert (model(x_t, t, degraded) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_stays_near_float32(kind, autocast):
    model, noisy = network(kind), inputs()
    with torch.no_grad():
        expected = model(*noisy)
        if not autocast:
            model.to(torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found = model(*noisy)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() / expected.abs().max() < 0.05


@pytest.mark.parametrize(("num_levels", "unshuffle", "multiple"), [(1, 1, 1), (3, 1, 4), (2, 2, 4)])
def test_size_multiple_is_the_least_that_works(kind, num_levels, unshuffle, multiple):
    model = network(kind, num_levels, unshuffle=unshuffle)
    assert model.size_multiple == multiple
    x_t, t, degraded = inputs((multiple, 3 * multiple))
    assert model(x_t, t, degraded).shape == x_t.shape
    if multiple > 1:
        with pytest.raises(ValueError, match=f"multiples of {multiple}, got {multiple} x {multiple + 1}"):
            model(*inputs((multiple, multiple + 1)))


def test_shapes_that_do_not_fit_are_refused(kind):
    x_t, t, degraded = inputs()
    with pytest.raises(ValueError, match="degraded must match"):
        network(kind)(x_t, t, degraded[:, :, :8])
    with pytest.raises(ValueError, match="one entry per image"):
        network(kind)(x_t, t[:1], degraded)
    unconditional = network(kind, condition_channels=0)
    assert unconditional(x_t, t, None).shape == x_t.shape
    with pytest.raises(ValueError, match="3 and 0 channels, got 3 and 3"):
        unconditional(x_t, t, degraded)
    with pytest.raises(ValueError, match="3 and 3 channels, got 3 and 0"):
        network(kind)(x_t, t, None)


# Of the U-Net.


def test_branches_of_an_untrained_unet_add_nothing():
    features = torch.randn(2, 32, 4, 4, generator=seeded())
    middle = UNet(NetworkConfig(**TINY)).mid_block(features, torch.ones(2, 64))
    assert torch.equal(middle, features)


def test_unshuffle_folds_space_into_channels():
    """The same weights with unshuffle, and without it on images of four times the channels."""
    folded, plain = network(unshuffle=2), network(image_channels=12, condition_channels=12)
    x_t, t, degraded = inputs()
    with torch.no_grad():
        found = plain(F.pixel_unshuffle(x_t, 2), t, F.pixel_unshuffle(degraded, 2))
        torch.testing.assert_close(folded(x_t, t, degraded), F.pixel_shuffle(found, 2))


def test_the_base_network_is_that_of_weatherdiffusion():
    config = NetworkConfig(head_channels=0)
    with torch.device("meta"):
        model = UNet(config)
    assert sum(p.numel() for p in model.parameters()) == 82_962_435
    assert len(model.state_dict()) == 332


def test_the_sinusoids_are_those_of_ho_et_al():
    t, channels = torch.tensor([0, 1, 999]), 8
    found = sinusoids(t, channels)
    for row, time in enumerate(t.tolist()):
        for k in range(4):
            angle = torch.tensor(time * 10_000 ** (-k / 3), dtype=torch.float64)
            assert found[row, k].item() == pytest.approx(angle.sin().item(), abs=1e-4)
            assert found[row, 4 + k].item() == pytest.approx(angle.cos().item(), abs=1e-4)


def test_known_weights_give_known_values():
    with torch.no_grad():
        found = network()(*inputs())
    assert found[0, :, 3, 5].tolist() == pytest.approx([0.2479, 0.5496, -0.4639], abs=1e-4)
    assert found[1, :, 15, 0].tolist() == pytest.approx([-0.2536, 0.0035, -0.5695], abs=1e-4)
    assert found.std().item() == pytest.approx(0.5744, abs=1e-4)


def test_it_compiles_whole_and_once_for_all_t():
    torch.compiler.reset()
    model, (x_t, t, degraded) = network(channel_multipliers=(1,), attention_levels=(0,)), inputs()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        compiled(x_t, t, degraded)
        with torch.compiler.set_stance("fail_on_recompile"):
            assert torch.equal(compiled(x_t, t + 5, degraded), model(x_t, t + 5, degraded))


@pytest.mark.parametrize("layer", ["time_embedding", "conv_out"])
def test_time_and_the_last_convolution_are_exact_under_autocast(layer):
    model, (x_t, t, degraded) = network(), inputs()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        if layer == "time_embedding":
            found = model.time_embedding(t)
            with torch.autocast("cpu", enabled=False):
                expected = model.time_embedding(t)
        else:
            seen = {}
            model.conv_norm_out.register_forward_hook(lambda *call: seen.update(norm=call[2]))
            found = model(x_t, t, degraded)
            with torch.autocast("cpu", enabled=False):
                expected = model.conv_out(F.silu(seen["norm"]).float())
    assert (found - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_groups": 12}, r"num_groups=12 .* \[16, 32\]"),
        ({"head_channels": 24}, "head_channels=24 .* 32"),
        ({"attention_levels": (2,)}, r"2 levels, got \(2,\)"),
        ({"recognise": True}, "recognise=true needs hint=true"),
    ],
)
def test_numbers_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        network(**changes)


# The weather head.


def test_before_training_every_kind_is_as_likely_as_not():
    assert torch.equal(UNet(NetworkConfig(**TINY, hint=True, recognise=True)).recognise(*inputs()), torch.zeros(2, 5))


def test_it_reads_features_that_it_does_not_change():
    """It uses all of them, and training it sends no gradient into the network."""
    model = network(hint=True, recognise=True)
    model.recognise(*inputs()).square().sum().backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched == {name for name, _ in model.named_parameters() if name.startswith("weather_head.")}
    assert model.weather_head.hidden.weight.grad.abs().amin(0).max() > 0
    assert (model.weather_head.hidden.weight.grad.abs().amax(0) > 0).all()


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
    model, (x_t, t, degraded) = network(hint=True, recognise=True), inputs()
    with torch.no_grad():
        assert (model.recognise(x_t, t, degraded) - model.recognise(x_t, t, degraded + 1)).abs().max() > 1e-3
        plain = UNet(NetworkConfig(**TINY, hint=True))
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("weather_head.")})
        assert torch.equal(model(x_t, t, degraded), plain(x_t, t, degraded))


def test_its_statistics_are_in_float32_whatever_the_network_computes_in():
    model, given = network(hint=True, recognise=True), inputs()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model.recognise(*given)
    assert logits.dtype == torch.float32
    assert (logits - model.recognise(*given)).abs().max() < 0.1
