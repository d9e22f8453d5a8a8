"""Import checkpoints of WeatherDiffusion (Oezdenizci and Legenstein, 2023), whose network is ours with other names.

A checkpoint is a pickle of tensors and argparse namespaces. Torch's restricted unpickler reads it and creates no other
objects. The network's settings are inferred from its tensors.
"""

import argparse
import pickle
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from restore_diff.checkpoint import WeightsError
from restore_diff.config import ConfigError, ExperimentConfig, config_from_dict
from restore_diff.models.unet import UNet

RENAMED = (
    (r"temb\.dense\.0\.", "time_embedding.linear_1."),
    (r"temb\.dense\.1\.", "time_embedding.linear_2."),
    (r"norm_out\.", "conv_norm_out."),
    (r"down\.(\d+)\.", r"down_blocks.\1."),
    (r"up\.(\d+)\.", r"up_blocks.<\1>."),
    (r"mid\.block_1\.", "mid_block.resnets.0."),
    (r"mid\.block_2\.", "mid_block.resnets.1."),
    (r"mid\.attn_1\.", "mid_block.attentions.0."),
    (r"(?<=\.)block\.", "resnets."),
    (r"(?<=\.)attn\.", "attentions."),
    (r"(?<=\.)downsample\.", "downsamplers.0."),
    (r"(?<=\.)upsample\.", "upsamplers.0."),
    (r"(?<=\.)temb_proj\.", "time_emb_proj."),
    (r"(?<=\.)nin_shortcut\.", "conv_shortcut."),
    (r"(attentions\.\d+\.)norm\.", r"\1group_norm."),
    (r"(attentions\.\d+\.)([qkv])\.", r"\1to_\2."),
    (r"(attentions\.\d+\.)proj_out\.", r"\1to_out.0."),
)
"""(regular expression of their names, our name). Their up blocks count from full size, ours from the smallest."""

ATTENTION_SIZE = 16
"""Feature size in px at which all their networks apply attention, for images of the training size."""


class Imported(NamedTuple):
    """Weights and config in the layout of this project."""

    tensors: dict[str, Tensor]
    """Averaged weights by parameter name of our U-Net."""
    config: ExperimentConfig
    step: int


def run_name(text: str) -> str:
    """Return `text` with other characters than those of file names replaced; it may be empty."""
    return re.sub(r"[^\w.-]+", "_", text).lstrip(".-")


def read_weatherdiffusion(path: Path) -> Imported:
    """Read one of their files (`*.pth.tar`), averaged weights if present. Raises WeightsError with the path.

    The config is that of their evaluation: 25 leading DDIM steps without clipping, box windows 16 px apart.
    """
    content = _unpickled(path)
    averaged = content.get("ema_helper") or content.get("state_dict")
    if not isinstance(averaged, dict) or not all(isinstance(value, Tensor) for value in averaged.values()):
        raise WeightsError(f"{path}: not a checkpoint of WeatherDiffusion: neither ema_helper nor state_dict in it")
    theirs = {name.removeprefix("module."): tensor.float().cpu() for name, tensor in averaged.items()}
    try:
        config = _config(theirs, path.name.split(".")[0])
        tensors = {name: _linear(tensor, name) for name, tensor in _renamed(theirs).items()}
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in UNet(config.model).state_dict().items()}
    except (KeyError, IndexError, ValueError, ConfigError) as error:
        raise WeightsError(f"{path}: not a network of WeatherDiffusion: {error}") from error
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise WeightsError(f"{path}: {len(wrong)} tensors do not fit a network of WeatherDiffusion, first {wrong[0]}")
    step = content.get("step")
    return Imported(tensors, config, step if isinstance(step, int) and step >= 0 else 0)


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = next(
            (line for line in str(error).splitlines() if "GLOBAL" in line), "damaged, or not a torch checkpoint"
        )
        raise WeightsError(f"{path}: refused without running it: {reason.strip()}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: not a checkpoint of WeatherDiffusion: a {type(content).__name__}")
    return content


def _config(theirs: dict[str, Tensor], name: str) -> ExperimentConfig:
    """Infer the settings that differ between their configs from the tensors."""
    channels = theirs["conv_in.weight"].shape[0]
    num_levels = 1 + max(int(match[1]) for key in theirs if (match := re.match(r"down\.(\d+)\.", key)))
    widths = [theirs[f"down.{level}.block.0.conv1.weight"].shape[0] for level in range(num_levels)]
    num_blocks = 1 + max(int(match[1]) for key in theirs if (match := re.match(r"down\.0\.block\.(\d+)\.", key)))
    attention = [level for level in range(num_levels) if f"down.{level}.attn.0.q.weight" in theirs]
    size = ATTENTION_SIZE * 2 ** attention[0]
    return config_from_dict(
        {
            "name": run_name(name) or "weatherdiffusion",
            "data": {"train": "allweather", "test": "raindrop", "crop_size_px": size, "crops_per_image": 16},
            "diffusion": {"prediction": "epsilon", "timesteps": "antithetic"},
            "model": {
                "base_channels": channels,
                "channel_multipliers": [width // channels for width in widths],
                "num_blocks": num_blocks,
                "attention_levels": attention,
                "head_channels": 0,
            },
            "sampler": {"num_steps": 25, "spacing": "leading", "clip": False},
            "tiling": {"tile_size_px": size, "tile_overlap_px": size - 16, "window": "box"},
        }
    )


def _renamed(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    num_levels = 1 + max(int(match[1]) for key in theirs if (match := re.match(r"up\.(\d+)\.", key)))
    ours = {}
    for name, tensor in theirs.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        ours[re.sub(r"<(\d+)>", lambda level: str(num_levels - 1 - int(level[1])), name)] = tensor
    return ours


def _linear(tensor: Tensor, name: str) -> Tensor:
    """Convert their 1x1 convolutions of attention to our linear layers."""
    return tensor[:, :, 0, 0].clone() if ".to_" in name and tensor.dim() == 4 else tensor.clone()
