"""Folders of diffusers: UNet2DModel, and its DDIMScheduler, to and from our network and settings.

A folder holds config.json and the weights, scheduler_config.json if diffusers has the prediction, and model_index.json
if DDIMPipeline can sample: the network is unconditional and works on pixels.
"""

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from restore_diff.checkpoint import Weights, WeightsError, load_weights, require_finite, save_weights, without_retired
from restore_diff.config import ExperimentConfig, config_from_dict, to_dict
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.errors import UserError
from restore_diff.files import replace_atomically
from restore_diff.interop.weatherdiffusion import Imported, run_name
from restore_diff.models.layers import NORM_EPSILON
from restore_diff.settings import NetworkConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
SCHEDULER_FILE = "scheduler_config.json"
INDEX_FILE = "model_index.json"
PREDICTIONS = {"epsilon": "epsilon", "clean": "sample", "velocity": "v_prediction"}
SCHEDULES = {"linear": "linear", "quadratic": "scaled_linear", "cosine": "squaredcos_cap_v2"}
SPACINGS = ("trailing", "leading", "linspace")
OPTIONAL = {
    "act_fn": "silu",
    "add_attention": True,
    "attn_norm_num_groups": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_type": "conv",
    "dropout": 0.0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "upsample_type": "conv",
}
"""Settings of UNet2DModel that older folders may lack, with diffusers' defaults. Our network has no others, but dropout
and add_attention."""
WITHOUT_EFFECT = {"sample_size", "num_train_timesteps"}
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Parts of an attention layer: names of diffusers up to 0.16, today's names."""


def unet2d_config(config: NetworkConfig) -> dict[str, Any]:
    """Return the settings of the UNet2DModel equal to ours on cat([degraded, x_t]). Raises UserError."""
    unsupported = [f"model.kind={config.kind}"] * (config.kind != "unet") + ["model.hint=true"] * config.hint
    unsupported += [f"model.unshuffle={config.unshuffle}"] * (config.unshuffle > 1)
    if unsupported:
        raise UserError(f"diffusers' UNet2DModel does not support {', '.join(unsupported)}; use export onnx")
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


def scheduler_config(config: ExperimentConfig) -> dict[str, Any] | None:
    """Return the settings of the equal DDIMScheduler; None for a prediction that diffusers lacks.

    With use_clipped_model_output=True where the sampler clips, its steps are those of our ddim.
    """
    prediction = PREDICTIONS.get(config.diffusion.prediction)
    if prediction is None:
        return None
    name = config.schedule.name
    alpha_bar = NoiseSchedule(config.schedule).alpha_bar
    betas = [1 - alpha_bar[0].item(), *(1 - alpha_bar[1:] / alpha_bar[:-1]).tolist()]
    known = {"beta_schedule": SCHEDULES.get(name)} if name in SCHEDULES else {"trained_betas": betas}
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": len(betas),
        **known,
        "beta_start": config.schedule.beta_start * 1000 / len(betas),
        "beta_end": config.schedule.beta_end * 1000 / len(betas),
        "prediction_type": prediction,
        "clip_sample": config.sampler.clip,
        "set_alpha_to_one": True,
        "timestep_spacing": config.sampler.spacing if config.sampler.spacing in SPACINGS else "trailing",
    }


def save_diffusers(folder: Path, config: ExperimentConfig, weights: Weights) -> bool:
    """Write the folder, our config in the metadata of its weights; return whether DDIMPipeline can sample from it.

    Raises UserError, OSError.
    """
    network, scheduler = unet2d_config(config.model), scheduler_config(config)
    samples = scheduler is not None and not config.model.condition_channels and config.codec.name == "identity"
    written: dict[str, dict[str, Any]] = {}
    if scheduler is not None:
        written[SCHEDULER_FILE] = scheduler
    if samples:
        classes = {"scheduler": ["diffusers", "DDIMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
        written[INDEX_FILE] = {"_class_name": "DDIMPipeline", **classes}
    written[CONFIG_FILE] = network | {"sample_size": config.data.crop_size_px}
    folder.mkdir(parents=True, exist_ok=True)
    # Removed first: a kill in between leaves a folder that does not load, not a config with other weights.
    for name in (CONFIG_FILE, INDEX_FILE, SCHEDULER_FILE):
        (folder / name).unlink(missing_ok=True)
    save_weights(folder / WEIGHTS_FILE, weights.tensors, to_dict(config), weights.step)
    for name, content in written.items():
        replace_atomically(folder / name, (json.dumps(content, indent=2) + "\n").encode())
    return samples


def read_diffusers(folder: Path) -> Imported:
    """Read a folder of `save_diffusers`, or one with a UNet2DModel and the config of its scheduler.

    A folder of a pipeline has them in unet/ and scheduler/. Of a conditional network, the first input channels are the
    condition. UserError for files that are missing and for networks without an equal here, WeightsError for
    weights that cannot be read; both name the path.
    """
    unet = folder / "unet" if (folder / "unet" / CONFIG_FILE).is_file() else folder
    file = unet / WEIGHTS_FILE
    if not file.is_file():
        raise UserError(f"{folder}: {WEIGHTS_FILE} is not in it; save_pretrained of diffusers writes it")
    theirs = _read_json(unet / CONFIG_FILE)
    with contextlib.suppress(WeightsError):  # raised where there is no metadata of ours
        ours = load_weights(file)
        return Imported(ours.tensors, config_from_dict(without_retired(ours.config)), ours.step)
    scheduler = next((path for path in (folder / "scheduler", unet) if (path / SCHEDULER_FILE).is_file()), None)
    if scheduler is None:
        raise UserError(f"{folder}: {SCHEDULER_FILE} is not in it; it names the prediction and the noise schedule")
    try:
        config = _experiment(folder.resolve().name, theirs, _read_json(scheduler / SCHEDULER_FILE))
        tensors = {_renamed(name): tensor.float() for name, tensor in load_file(file).items()}
        require_finite(tensors)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else "; ".join(str(error).splitlines())
        raise UserError(f"{folder}: not a network of this project: {reason}") from error
    return Imported(tensors, config, 0)


def _network(theirs: dict[str, Any]) -> dict[str, Any]:
    """The section `model` for a UNet2DModel. KeyError, TypeError for settings that are missing or of another type."""
    widths = theirs["block_out_channels"]
    base = math.gcd(*widths)
    return {
        "base_channels": base,
        "channel_multipliers": [width // base for width in widths],
        "num_blocks": theirs["layers_per_block"],
        "attention_levels": [i for i, kind in enumerate(theirs["down_block_types"]) if kind == "AttnDownBlock2D"],
        "mid_attention": theirs["add_attention"],
        "head_channels": theirs["attention_head_dim"] or 0,
        "num_groups": theirs["norm_num_groups"],
        "dropout": theirs["dropout"],
        "image_channels": theirs["out_channels"],
        "condition_channels": theirs["in_channels"] - theirs["out_channels"],
    }


def _require_equal(theirs: dict[str, Any], config: NetworkConfig) -> None:
    """Raise ValueError that lists the settings of theirs without an equal in our network."""
    equal = OPTIONAL | unet2d_config(config)
    differing = [key for key, value in theirs.items() if key not in WITHOUT_EFFECT and value != equal.get(key)]
    if differing:
        pairs = (f"{key}={json.dumps(theirs[key])} (here {json.dumps(equal.get(key))})" for key in differing)
        raise ValueError(", ".join(pairs))


def _experiment(name: str, theirs: dict[str, Any], scheduler: dict[str, Any]) -> ExperimentConfig:
    """The config of a network and its scheduler. KeyError, TypeError, ValueError for what has no equal here."""
    theirs = OPTIONAL | {key: value for key, value in theirs.items() if not key.startswith("_")}
    size = theirs.get("sample_size")
    predictions = {value: key for key, value in PREDICTIONS.items()}
    schedules = {value: key for key, value in SCHEDULES.items()}
    prediction, schedule = scheduler.get("prediction_type", "epsilon"), scheduler["beta_schedule"]
    spacing = scheduler.get("timestep_spacing", "leading")
    refused = [f"{key}={scheduler[key]}" for key in ("thresholding", "rescale_betas_zero_snr") if scheduler.get(key)]
    refused += ["trained_betas"] * bool(scheduler.get("trained_betas"))
    refused += [f"prediction_type={prediction}"] * (prediction not in predictions)
    refused += [f"beta_schedule={schedule}"] * (schedule not in schedules)
    if refused:
        raise ValueError(f"its scheduler has {', '.join(refused)}")
    num_timesteps = scheduler["num_train_timesteps"]
    ends = {end: scheduler[end] * num_timesteps / 1000 for end in ("beta_start", "beta_end")}
    config = config_from_dict(
        {
            "name": run_name(name) or "diffusers",
            "data": {"crop_size_px": size} if isinstance(size, int) else {},
            "model": _network(theirs),
            "diffusion": {"prediction": predictions[prediction]},
            "schedule": {"name": schedules[schedule], "num_timesteps": num_timesteps, **ends},
            "sampler": {"clip": scheduler.get("clip_sample", True), "spacing": spacing, "num_steps": 50},
        }
    )
    _require_equal(theirs, config.model)
    return config


def _renamed(name: str) -> str:
    return re.sub(r"(?<=attentions\.)(\d+)\.(\w+)\.", lambda m: f"{m[1]}.{RENAMED.get(m[2], m[2])}.", name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({str(error)[:200]})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not the config of a network")
    return content
