"""The network computes the function that its settings name, whatever the memory format and the precision."""

import pytest
import torch
from torch import nn

from restore_diff.models.layers import sinusoids
from restore_diff.models.unet import UNet
from restore_diff.settings import NetworkConfig

TINY = {"base_channels": 16, "channel_multipliers": (1, 2), "num_blocks": 1, "attention_levels": (1,), "num_groups": 8}


def network(seed=0, **changes) -> UNet:
    """A tiny network with every parameter random, those that start at zero too."""
    model = UNet(NetworkConfig(**{**TINY, "head_channels": 8, **changes})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            scale = 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            parameter += "norm" in name and name.endswith("weight")
    return model


def inputs(size=(16, 24), batch=2, channels=3):
    generator = torch.Generator().manual_seed(1)
    x_t, degraded = (torch.randn(batch, channels, *size, generator=generator) for _ in range(2))
    return x_t, torch.tensor([3, 777, 41][:batch]), degraded


def test_the_base_network_is_that_of_weatherdiffusion():
    config = NetworkConfig(head_channels=0)
    with torch.device("meta"):
        model = UNet(config)
    assert sum(p.numel() for p in model.parameters()) == 82_962_435
    assert len(model.state_dict()) == 332


def test_the_names_of_the_parameters_do_not_change():
    model = network()
    assert {
        "conv_in.weight",
        "time_embedding.linear_1.bias",
        "down_blocks.0.downsamplers.0.conv.weight",
        "down_blocks.1.resnets.0.conv_shortcut.weight",
        "down_blocks.1.resnets.0.time_emb_proj.weight",
        "down_blocks.1.attentions.0.to_out.0.weight",
        "mid_block.attentions.0.group_norm.weight",
        "up_blocks.0.upsamplers.0.conv.bias",
        "up_blocks.1.resnets.1.norm2.weight",
        "conv_norm_out.weight",
        "conv_out.weight",
    } <= model.state_dict().keys()


def test_the_sinusoids_are_those_of_ho_et_al():
    t, channels = torch.tensor([0, 1, 999]), 8
    found = sinusoids(t, channels)
    for row, time in enumerate(t.tolist()):
        for k in range(4):
            angle = torch.tensor(time * 10_000 ** (-k / 3), dtype=torch.float64)
            assert found[row, k].item() == pytest.approx(angle.sin().item(), abs=1e-4)
            assert found[row, 4 + k].item() == pytest.approx(angle.cos().item(), abs=1e-4)


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_an_untrained_network_puts_out_zero_and_every_branch_adds_nothing(unshuffle):
    model = UNet(NetworkConfig(**TINY, head_channels=8, unshuffle=unshuffle))
    x_t, t, degraded = inputs()
    assert torch.equal(model(x_t, t, degraded), torch.zeros_like(x_t))
    features = torch.randn(2, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    middle = model.mid_block(features, torch.ones(2, 64))
    assert torch.equal(middle, features)


def test_every_parameter_takes_part():
    model = network()
    model(*inputs()).square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    # The gradient of to_k.bias is zero by mathematics: softmax does not see what is added to all keys.
    still = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() < 1e-9]
    assert [name for name in still if not name.endswith("to_k.bias")] == []


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


def test_each_image_of_a_batch_is_computed_alone():
    model, (x_t, t, degraded) = network(), inputs()
    with torch.no_grad():
        together = model(x_t, t, degraded)
        alone = torch.cat([model(x_t[i : i + 1], t[i : i + 1], degraded[i : i + 1]) for i in range(2)])
    assert (together - alone).abs().max() < 1e-5
    assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize("which", ["x_t", "t", "degraded"])
def test_the_output_depends_on_each_input(which):
    model, (x_t, t, degraded) = network(), inputs()
    changed = {"x_t": (x_t + 1, t, degraded), "t": (x_t, t + 100, degraded), "degraded": (x_t, t, degraded + 1)}[which]
    with torch.no_grad():
        assert (model(x_t, t, degraded) - model(*changed)).abs().max() > 1e-3


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_channels_last_gives_the_same_values(unshuffle):
    model, (x_t, t, degraded) = network(unshuffle=unshuffle), inputs()
    with torch.no_grad():
        expected = model(x_t, t, degraded)
        model.to(memory_format=torch.channels_last)
        last = {"memory_format": torch.channels_last}
        assert (model(x_t.to(**last), t, degraded.to(**last)) - expected).abs().max() < 1e-5
        assert (model(x_t, t, degraded) - expected).abs().max() < 1e-5


def test_bfloat16_autocast_stays_near_float32():
    model, (x_t, t, degraded) = network(), inputs()
    with torch.no_grad():
        expected = model(x_t, t, degraded)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(x_t, t, degraded)
    assert found.dtype == torch.float32
    error = (found - expected).abs().max() / expected.abs().max()
    assert 0 < error < 0.03


def test_bfloat16_weights_work_without_autocast():
    model, (x_t, t, degraded) = network(), inputs()
    with torch.no_grad():
        expected = model(x_t, t, degraded)
        found = model.to(torch.bfloat16)(x_t, t, degraded)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() / expected.abs().max() < 0.03


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
                expected = model.conv_out(nn.functional.silu(seen["norm"]).float())
    assert (found - expected).abs().max() < 1e-6


def test_float64_stays_float64():
    model, (x_t, t, degraded) = network().double(), inputs()
    with torch.no_grad():
        assert model(x_t, t, degraded).dtype == torch.float64


def test_a_network_without_condition_takes_none():
    x_t, t, degraded = inputs()
    model = network(condition_channels=0)
    assert model(x_t, t, None).shape == x_t.shape
    with pytest.raises(ValueError, match="3 and 0 channels, got 3 and 3"):
        model(x_t, t, degraded)
    with pytest.raises(ValueError, match="3 and 3 channels, got 3 and 0"):
        network()(x_t, t, None)


def test_shapes_that_do_not_fit_are_refused():
    x_t, t, degraded = inputs()
    with pytest.raises(ValueError, match="degraded must match"):
        network()(x_t, t, degraded[:, :, :8])
    with pytest.raises(ValueError, match="one entry per image"):
        network()(x_t, t[:1], degraded)
    with pytest.raises(ValueError, match="multiples of 2, got 15 x 24"):
        network()(x_t[:, :, :15], t, degraded[:, :, :15])


@pytest.mark.parametrize(("multipliers", "unshuffle", "multiple"), [((1,), 1, 1), ((1, 2, 2), 1, 4), ((1, 2, 2), 2, 8)])
def test_size_multiple_is_the_least_that_works(multipliers, unshuffle, multiple):
    model = network(channel_multipliers=multipliers, attention_levels=(), unshuffle=unshuffle)
    assert model.size_multiple == multiple
    x_t, t, degraded = inputs(size=(multiple, 3 * multiple))
    assert model(x_t, t, degraded).shape == x_t.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_groups": 12}, r"num_groups=12 .* \[16, 32\]"),
        ({"head_channels": 24}, "head_channels=24 .* 32"),
        ({"attention_levels": (2,)}, r"2 levels, got \(2,\)"),
    ],
)
def test_numbers_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        network(**changes)
