"""WeatherDiffusion's own network and sampler, loaded from a clone of its repository."""

import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

PATCH, STRIDE, NUM_STEPS = 64, 16, 25


def their_sampler(clone: Path) -> Callable[..., Tensor]:
    """Return their `generalized_steps_overlapping`, linear schedule, on the input's device instead of "cuda"."""
    source = load_source(
        clone / "utils/sampling.py", drop=("import utils.logging",), edit=("to('cuda')", "to(x.device)")
    )

    def sample(network: Callable[..., Tensor], degraded: Tensor, noise: Tensor, num_steps: int = NUM_STEPS) -> Tensor:
        rows, columns = (range(0, side - PATCH + 1, STRIDE) for side in degraded.shape[-2:])
        corners = [(row, column) for row in rows for column in columns]
        levels, betas = range(0, 1000, 1000 // num_steps), torch.linspace(1e-4, 0.02, 1000)
        steps = source.generalized_steps_overlapping
        xs, _ = steps(noise, degraded, levels, network, betas, corners=corners, p_size=PATCH)
        return ((xs[-1] + 1) / 2).clamp(0, 1)

    return sample


def their_network(clone: Path) -> torch.nn.Module:
    """Return the network of their configs/allweather.yml."""
    layers = {"ch": 128, "out_ch": 3, "ch_mult": [1, 2, 3, 4], "num_res_blocks": 2, "attn_resolutions": [16]}
    model = types.SimpleNamespace(**layers, dropout=0.0, in_channels=3, resamp_with_conv=True)
    config = types.SimpleNamespace(data=types.SimpleNamespace(image_size=PATCH, conditional=True), model=model)
    return load_source(clone / "models/unet.py").DiffusionUNet(config).eval()


def load_source(path: Path, drop: tuple[str, ...] = (), edit: tuple[str, str] = ("", "")) -> types.ModuleType:
    """Load a source file as a module, without lines that contain one of `drop`, with `edit` = (old, new)."""
    lines = [line for line in path.read_text().splitlines() if not any(part in line + "\n" for part in drop)]
    module = types.ModuleType(path.stem)
    exec(compile("\n".join(lines).replace(*edit), str(path), "exec"), module.__dict__)
    return module
