"""Depth of a scene where nobody measured it: made up, but such that its edges are the photograph's.

Drawn at random are a ground plane up to a horizon with the far plane behind it, a slanted plane and a smooth field;
their mixture is the background. What differs from it in colour stands in front of it, and a guided filter with the
photograph as its guide moves the edges of depth to those of the picture (He, Sun & Tang, "Guided image filtering",
ECCV 2010; as used there on the transmission of haze)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from kornia.filters import guided_blur
from torch import Tensor
from torch.nn import functional

from restore_diff.randomness import generator
from restore_diff.settings import HazeConfig, range_names
from restore_diff.tensors import Images
from restore_diff.weather.scene import require_a_seed_each

FRAME_PX = 320
"""A picture whose side is shorter is taken for a crop of one of this size: it sees a part of the scene."""

GRID = 5
"""Nodes per side of the scene between which a smooth field is interpolated."""

OBJECT_PX = 8
"""Side of the squares that are compared in colour; smaller things lie as deep as what surrounds them."""

GUIDE_PX = 33
"""Side of the windows of the guided filter."""

GUIDE_SMOOTHNESS = 1e-3
"""Variance of the picture's values below which it counts as without edges."""


class View(NamedTuple):
    """Where the pixels of a picture lie in its scene, from 0 (left, top) to 1; one row per picture."""

    x: Tensor  # (B,1,1,W)
    y: Tensor  # (B,1,H,1)


@torch.no_grad()
def procedural_depth(clean: Images, seeds: Sequence[int]) -> Tensor:
    """Depth (B,1,H,W), float32, in (0, 1], for photographs in [0, 1]; 1 is the farthest point of the scene.

    Row i depends on clean[i] and seeds[i] alone. A crop sees a part of a scene: mostly a slope, at times an edge.
    """
    chances = torch.stack([torch.rand(11, generator=generator(seed, "depth")) for seed in seeds])
    chances = chances.to(clean.device)[:, :, None, None, None]
    seen = view(clean, seeds)
    ground = _ground(seen, horizon=chances[:, 0] - 0.2, roll=chances[:, 1] - 0.5, near=0.02 + 0.3 * chances[:, 2])
    slanted = _slanted(seen, right=4 * chances[:, 3] - 2, down=4 * chances[:, 4] - 2)
    backgrounds = torch.stack([ground, slanted, smooth_fields(seen, seeds, "depth")])
    # Cubed, so that one of the three mostly prevails.
    shares = chances[:, 5:8].transpose(0, 1) ** 3 + 1e-3
    background = (backgrounds * shares).sum(0) / shares.sum(0)
    pictures = clean.float()
    scene = background * (1 - 0.8 * chances[:, 8] * _standing_out(pictures, seen, seeds))
    scene = guided_blur(pictures.mean(1, keepdim=True), scene, GUIDE_PX, GUIDE_SMOOTHNESS, "replicate", subsample=4)
    nearest, nearer = 0.05 + 0.25 * chances[:, 9], 0.75 + chances[:, 10]
    return nearest + (1 - nearest) * scene.clamp(0, 1) ** nearer


def view(images: Images, seeds: Sequence[int]) -> View:
    """Draw which part of its scene each picture shows: all of it, along a side that is FRAME_PX or longer."""
    places = torch.stack([torch.rand(2, generator=generator(seed, "view")) for seed in seeds]).to(images.device)
    axes = []
    for size, place in zip((images.shape[-1], images.shape[-2]), places.unbind(1), strict=True):
        frame = max(size, FRAME_PX)
        pixels = torch.arange(size, device=images.device) + 0.5
        axes.append((place[:, None] * (frame - size) + pixels) / frame)
    return View(x=axes[0][:, None, None, :], y=axes[1][:, None, :, None])


def smooth_fields(seen: View, seeds: Sequence[int], purpose: str) -> Tensor:
    """Smooth random values (B,1,H,W), float32, in [0, 1], other ones for each purpose."""
    nodes = [torch.rand(1, GRID, GRID, generator=generator(seed, "field", purpose)) for seed in seeds]
    x, y = torch.broadcast_tensors(seen.x[:, 0], seen.y[:, 0])
    places = torch.stack([x, y], dim=-1) * 2 - 1
    fields = functional.grid_sample(
        torch.stack(nodes).to(x.device), places, mode="bicubic", padding_mode="border", align_corners=True
    )
    return fields.clamp(0, 1)


def _ground(seen: View, horizon: Tensor, roll: Tensor, near: Tensor) -> Tensor:
    """Seen from above it, a plane's depth is the inverse of the distance below the horizon; all beyond is far."""
    below = seen.y - horizon + 0.4 * roll * (seen.x - 0.5)
    return (near * (1 - horizon) / below.clamp(min=1e-3)).clamp(max=1)


def _slanted(seen: View, right: Tensor, down: Tensor) -> Tensor:
    return (0.5 + right * (seen.x - 0.5) + down * (seen.y - 0.5)).clamp(0, 1)


def _standing_out(pictures: Images, seen: View, seeds: Sequence[int]) -> Tensor:
    """How much each pixel belongs to what stands in front: (B,1,H,W) in [0, 1], by colour and height, unsharp.

    Mostly the darker and the lower part: behind is the sky, or what it lights.
    """
    normal = torch.stack([torch.randn(4, generator=generator(seed, "objects")) for seed in seeds]).to(pictures.device)
    colour = functional.normalize(1 + 2 * normal[:, :3], dim=1)[:, :, None, None]
    size = [-(-side // OBJECT_PX) for side in pictures.shape[-2:]]
    squares = functional.interpolate(pictures, size, mode="area")
    behind = ((squares - 0.5) * colour).sum(1, keepdim=True) / 0.2 - 0.5 * normal[:, 3:, None, None]
    behind = functional.interpolate(behind, pictures.shape[-2:], mode="bilinear") + 3 * (0.5 - seen.y)
    return torch.sigmoid(-4 * behind)


# Haze on clean photographs, by depth.
#
# I = J t + A (1 - t) with t = exp(-beta d): of the light J of a scene at depth d, the share t arrives, and the air adds
# its own light A instead (Koschmieder 1924; Narasimhan & Nayar, "Vision and the atmosphere", IJCV 2002). Depth is counted
# from 0 to 1, the farthest point, so that beta is the optical depth of that point, as in the benchmarks (Li et al.,
# "Benchmarking single-image dehazing and beyond", IEEE TIP 2019: beta 0.6 to 1.8, A 0.7 to 1).
#
# Light adds in linear light, but here, as in those benchmarks, the formula is applied to the coded values: their hazy
# pictures fit it to within the rounding to 8 bits, so this is what a network is scored on. (Scattering in linear light
# looks much like this with twice the beta.)


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
