"""With diffusers' UNet2DModel the network shares the names of its parameters and the function that they compute."""

import pytest
import torch
import torch.nn.functional as F

from restore_diff.models.unet import UNet
from restore_diff.settings import NetworkConfig

diffusers = pytest.importorskip("diffusers")


def peer(config: NetworkConfig):
    """diffusers' own network of these settings."""
    levels = range(len(config.channel_multipliers))
    kinds = ["Attn" if level in config.attention_levels else "" for level in levels]
    folded = config.unshuffle**2
    return diffusers.UNet2DModel(
        in_channels=(config.image_channels + config.condition_channels) * folded,
        out_channels=config.image_channels * folded,
        layers_per_block=config.num_blocks,
        block_out_channels=[config.base_channels * multiplier for multiplier in config.channel_multipliers],
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        add_attention=config.mid_attention,
        attention_head_dim=config.head_channels or None,
        norm_num_groups=config.num_groups,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    ).eval()


def randomised(model):
    """All parameters random, so that a branch that would start at zero counts."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


SETTINGS = {
    "attention at a level and in the middle, one head": {"attention_levels": (1,), "head_channels": 0},
    "heads of 8": {"attention_levels": (0, 2), "head_channels": 8},
    "heads of 64": {"base_channels": 64, "channel_multipliers": (1, 2), "attention_levels": (1,), "head_channels": 64},
    "no attention": {"attention_levels": (), "mid_attention": False},
    "middle alone": {"attention_levels": (), "head_channels": 8},
    "two blocks, four levels": {
        "channel_multipliers": (1, 2, 3, 4),
        "num_blocks": 2,
        "attention_levels": (2,),
        "head_channels": 0,
    },
    "one level": {"channel_multipliers": (1,), "attention_levels": (0,), "head_channels": 0},
    "narrowing": {"channel_multipliers": (2, 1, 3), "attention_levels": (), "head_channels": 0},
    "unshuffled": {"unshuffle": 2, "attention_levels": (1,), "head_channels": 0},
    "unconditional": {"condition_channels": 0, "attention_levels": (1,), "head_channels": 0},
}


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_same_names_and_same_function_as_diffusers(changes):
    tiny = {"base_channels": 16, "channel_multipliers": (1, 2, 2), "num_blocks": 1, "num_groups": 8}
    config = NetworkConfig(**{**tiny, **changes})
    ours, theirs = UNet(config).eval(), randomised(peer(config))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)

    generator = torch.Generator().manual_seed(6)
    x_t, degraded = (torch.randn(2, 3, 16, 32, generator=generator) for _ in range(2))
    t = torch.tensor([0, 815])
    condition = degraded if config.condition_channels else None
    stacked = x_t if condition is None else torch.cat([condition, x_t], dim=1)
    with torch.no_grad():
        expected = F.pixel_shuffle(theirs(F.pixel_unshuffle(stacked, config.unshuffle), t).sample, config.unshuffle)
        found = ours(x_t, t, condition)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-5
