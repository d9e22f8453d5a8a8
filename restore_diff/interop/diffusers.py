"""Export to a folder for diffusers' UNet2DModel.from_pretrained, which computes the same function."""

import json
from pathlib import Path
from typing import Any

from restore_diff.checkpoint import Weights, save_weights
from restore_diff.config import ExperimentConfig, to_dict
from restore_diff.errors import UserError
from restore_diff.files import replace_atomically
from restore_diff.models.layers import NORM_EPSILON
from restore_diff.settings import NetworkConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


class DiffusersError(UserError):
    """diffusers does not support this network."""


def unet2d_config(config: NetworkConfig) -> dict[str, Any]:
    """Return the settings of the UNet2DModel equal to ours on cat([degraded, x_t]). Raises DiffusersError."""
    unsupported = [f"model.kind={config.kind}"] * (config.kind != "unet") + ["model.hint=true"] * config.hint
    unsupported += [f"model.unshuffle={config.unshuffle}"] * (config.unshuffle > 1)
    if unsupported:
        raise DiffusersError(f"diffusers' UNet2DModel does not support {', '.join(unsupported)}; use export onnx")
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
    """Write the folder; the weights carry our config in their metadata. Raises DiffusersError, OSError."""
    text = json.dumps(unet2d_config(config.model), indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    # Removed first: a kill in between leaves a folder that does not load, not a config with other weights.
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    save_weights(folder / WEIGHTS_FILE, weights.tensors, to_dict(config), weights.step)
    replace_atomically(folder / CONFIG_FILE, text.encode())
