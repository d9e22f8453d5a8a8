"""Haze on clean photographs, by depth.

I = J t + A (1 - t) with t = exp(-beta d): of the light J of a scene at depth d, the share t arrives, and the air adds
its own light A instead (Koschmieder 1924; Narasimhan & Nayar, "Vision and the atmosphere", IJCV 2002). Depth is counted
from 0 to 1, the farthest point, so that beta is the optical depth of that point, as in the benchmarks (Li et al.,
"Benchmarking single-image dehazing and beyond", IEEE TIP 2019: beta 0.6 to 1.8, A 0.7 to 1).

Light adds in linear light, but here, as in those benchmarks, the formula is applied to the coded values: their hazy
pictures fit it to within the rounding to 8 bits, so this is what a network is scored on. (Scattering in linear light
looks much like this with twice the beta.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from restore_diff.data.weather.config import HazeConfig
from restore_diff.data.weather.depth import procedural_depth, smooth_fields, view
from restore_diff.data.weather.ranges import range_names
from restore_diff.data.weather.scene import require_a_seed_each
from restore_diff.randomness import generator
from restore_diff.tensors import Images


@torch.no_grad()
def render_haze(clean: Images, config: HazeConfig, seeds: Sequence[int], depth: Tensor | None = None) -> Images:
    """Lay haze over photographs in [0, 1]; result in [0, 1] on the same device.

    `depth` (B,1,H,W): distances of any unit, 0 or more; each map is divided by its largest value. None: made up from
    the photograph and the seed. Result i depends on clean[i], seeds[i] and depth[i] alone. ValueError when there is no
    image, or not one seed or depth map per image, or a depth that is no distance.
    """
    require_a_seed_each(clean, seeds)
    drawn = torch.stack([_draw(config, seed) for seed in seeds]).to(clean.device)
    scene = dict(zip(range_names(config), drawn[:, :-1, None, None, None].unbind(1), strict=True))
    distance = procedural_depth(clean, seeds) if depth is None else _relative(depth.to(clean.device), clean)
    transmission = torch.exp(-scene["beta"] * distance).to(clean.dtype)
    airlight = (_colour(scene["tint"], drawn[:, -1]) * scene["airlight"]).to(clean.dtype)
    darker = scene["unevenness"] * smooth_fields(view(clean, seeds), seeds, "airlight")
    return torch.lerp(airlight * (1 - darker).to(clean.dtype), clean, transmission).clamp_(0, 1)


def _draw(config: HazeConfig, seed: int) -> Tensor:
    """An image's settings, in order, and after them a number that is positive for yellowish haze, else negative."""
    low, high = torch.tensor([*(getattr(config, name) for name in range_names(config)), (-1.0, 1.0)]).unbind(1)
    return torch.lerp(low, high, torch.rand(len(low), generator=generator(seed, "haze")))


def _colour(tint: Tensor, warmth: Tensor) -> Tensor:
    """(B,3,1,1), the strongest colour 1: a ramp over red, green and blue that falls towards blue where it is warm."""
    ramp = torch.stack([warmth.sign() * place for place in (0.0, 0.5, 1.0)], dim=1)
    return 1 - tint * (ramp - ramp.amin(1, keepdim=True))[:, :, None, None]


def _relative(depth: Tensor, clean: Images) -> Tensor:
    if depth.shape != clean[:, :1].shape:
        raise ValueError(f"expected a depth map of shape {tuple(clean[:, :1].shape)}, got {tuple(depth.shape)}")
    depth = depth.float()
    if not torch.isfinite(depth).all() or depth.min() < 0:
        raise ValueError("depth must be finite and 0 or more everywhere")
    return depth / depth.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(depth.dtype).tiny)
