"""diffusers: a folder that UNet2DModel.from_pretrained loads. The network is the same one, under the same names."""

import json
from pathlib import Path
from typing import Any

from restore_diff.checkpoint import Weights, save_weights
from restore_diff.config import ExperimentConfig, to_dict
from restore_diff.files import replace_atomically
from restore_diff.models.layers import NORM_EPSILON
from restore_diff.settings import NetworkConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


class DiffusersError(ValueError):
    """diffusers has no network like this one."""


def unet2d_config(config: NetworkConfig) -> dict[str, Any]:
    """The settings of the UNet2DModel that computes the same from cat([degraded, x_t]). Raises DiffusersError."""
    if config.kind != "unet":
        raise DiffusersError(f"diffusers has no network of model.kind={config.kind}; export onnx takes it")
    if config.hint:
        raise DiffusersError(
            "diffusers' UNet2DModel takes no hint, and this network has model.hint; export onnx takes it"
        )
    if config.unshuffle > 1:
        raise DiffusersError(
            f"diffusers' UNet2DModel has no pixel-unshuffle, and this network has model.unshuffle={config.unshuffle}; "
            "export onnx takes it"
        )
    kinds = ["Attn" if level in config.attention_levels else "" for level in range(len(config.channel_multipliers))]
    return {
        "_class_name": "UNet2DModel",
        "in_channels": config.condition_channels + config.image_channels,
        "out_channels": config.image_channels,
        "layers_per_block": config.num_blocks,
        "block_out_channels": [config.base_channels * multiplier for multiplier in config.channel_multipliers],
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "add_attention": config.mid_attention,
        "attention_head_dim": config.head_channels or None,
        "norm_num_groups": config.num_groups,
        "norm_eps": NORM_EPSILON,
        "dropout": config.dropout,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    }


def save_diffusers(folder: Path, config: ExperimentConfig, weights: Weights) -> None:
    """Write the folder, its weights with this project's config in their metadata. Raises DiffusersError, OSError."""
    text = json.dumps(unet2d_config(config.model), indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    # Without its config a folder is no network: a kill in between leaves none, rather than one with others' weights.
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    save_weights(folder / WEIGHTS_FILE, weights.tensors, to_dict(config), weights.step)
    replace_atomically(folder / CONFIG_FILE, text.encode())
