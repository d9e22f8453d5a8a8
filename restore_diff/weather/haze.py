"""Haze on clean photographs, by measured or procedural depth.

I = J t + A (1 - t) with t = exp(-beta d): the share t of the light J arrives from depth d, and the air adds its own
light A (Koschmieder 1924; Narasimhan & Nayar, "Vision and the atmosphere", IJCV 2002). Depth is relative: 1 is the
farthest point, so beta is the optical depth of that point, as in the benchmarks (Li et al., "Benchmarking single-image
dehazing and beyond", IEEE TIP 2019: beta 0.6 to 1.8, A 0.7 to 1).

Light adds in linear light, but here, as in those benchmarks, the formula is applied to the coded values: their hazy
images fit it to within the rounding to 8 bits. Scattering in linear light looks similar with twice the beta.

Procedural depth mixes a random ground plane with a horizon, a slanted plane and a smooth field into a background.
Regions of a different colour are moved to the front, and a guided filter aligns the edges of the depth with the edges
of the photograph (He, Sun & Tang, "Guided image filtering", ECCV 2010)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from kornia.filters import guided_blur
from torch import Tensor
from torch.nn import functional

from restore_diff.randomness import generator
from restore_diff.settings import HazeConfig
from restore_diff.tensors import Images
from restore_diff.weather.scene import draw_scenes, stacked, uniform

FRAME_PX = 320
"""An image with a shorter side is treated as a crop of an image of this size: it shows a part of the scene."""

GRID = 5
"""Nodes per side of the scene; smooth fields are interpolated between them."""

OBJECT_PX = 8
"""Side of the squares whose colours are compared; smaller objects get the depth of their surroundings."""

GUIDE_PX = 33
"""Side of the windows of the guided filter."""

GUIDE_SMOOTHNESS = 1e-3
"""Regularisation of the guided filter: a local variance below this counts as no edge."""


class View(NamedTuple):
    """Position of each pixel in its scene, from 0 (left, top) to 1; one row per image."""

    x: Tensor  # (B,1,1,W)
    y: Tensor  # (B,1,H,1)


@torch.no_grad()
def procedural_depth(clean: Images, seeds: Sequence[int]) -> Tensor:
    """Return a plausible depth (B,1,H,W), float32, in (0, 1], for photographs in [0, 1]; 1 is the farthest point.

    Row i depends on clean[i] and seeds[i] alone. A crop shows a part of a scene: mostly a slope, sometimes an edge.
    """
    draws = uniform(seeds, ["depth"], (11, 1, 1, 1)).to(clean.device)
    seen = view(clean, seeds)
    ground = _ground(seen, horizon=draws[:, 0] - 0.2, roll=draws[:, 1] - 0.5, near=0.02 + 0.3 * draws[:, 2])
    slanted = _slanted(seen, right=4 * draws[:, 3] - 2, down=4 * draws[:, 4] - 2)
    backgrounds = torch.stack([ground, slanted, smooth_fields(seen, seeds, "depth")])
    # Cubed, so that one of the three usually dominates.
    shares = draws[:, 5:8].transpose(0, 1) ** 3 + 1e-3
    background = (backgrounds * shares).sum(0) / shares.sum(0)
    pictures = clean.float()
    scene = background * (1 - 0.8 * draws[:, 8] * _foreground(pictures, seen, seeds))
    scene = guided_blur(pictures.mean(1, keepdim=True), scene, GUIDE_PX, GUIDE_SMOOTHNESS, "replicate", subsample=4)
    nearest, nearer = 0.05 + 0.25 * draws[:, 9], 0.75 + draws[:, 10]
    return nearest + (1 - nearest) * scene.clamp(0, 1) ** nearer


def view(images: Images, seeds: Sequence[int]) -> View:
    """Draw the part of the scene that each image shows; a side of FRAME_PX or more shows all of it."""
    places = uniform(seeds, ["view"], (2,)).to(images.device)
    axes = []
    for size, place in zip((images.shape[-1], images.shape[-2]), places.unbind(1), strict=True):
        frame = max(size, FRAME_PX)
        pixels = torch.arange(size, device=images.device) + 0.5
        axes.append((place[:, None] * (frame - size) + pixels) / frame)
    return View(x=axes[0][:, None, None, :], y=axes[1][:, None, :, None])


def smooth_fields(seen: View, seeds: Sequence[int], purpose: str) -> Tensor:
    """Return smooth random values (B,1,H,W), float32, in [0, 1]; they differ between purposes."""
    nodes = uniform(seeds, ["field", purpose], (1, GRID, GRID)).to(seen.x.device)
    x, y = torch.broadcast_tensors(seen.x[:, 0], seen.y[:, 0])
    places = torch.stack([x, y], dim=-1) * 2 - 1
    fields = functional.grid_sample(nodes, places, mode="bicubic", padding_mode="border", align_corners=True)
    return fields.clamp(0, 1)


def _ground(seen: View, horizon: Tensor, roll: Tensor, near: Tensor) -> Tensor:
    """Depth of a ground plane: the inverse of the distance below the horizon; above the horizon it is 1."""
    below = seen.y - horizon + 0.4 * roll * (seen.x - 0.5)
    return (near * (1 - horizon) / below.clamp(min=1e-3)).clamp(max=1)


def _slanted(seen: View, right: Tensor, down: Tensor) -> Tensor:
    return (0.5 + right * (seen.x - 0.5) + down * (seen.y - 0.5)).clamp(0, 1)


def _foreground(pictures: Images, seen: View, seeds: Sequence[int]) -> Tensor:
    """Return the share (B,1,H,W) in [0, 1] of each pixel in the foreground, by colour and height, at low resolution.

    Darker and lower parts are mostly foreground; the sky and what it lights are background.
    """
    normal = torch.stack([torch.randn(4, generator=generator(seed, "objects")) for seed in seeds]).to(pictures.device)
    colour = functional.normalize(1 + 2 * normal[:, :3], dim=1)[:, :, None, None]
    size = [-(-side // OBJECT_PX) for side in pictures.shape[-2:]]
    squares = functional.interpolate(pictures, size, mode="area")
    behind = ((squares - 0.5) * colour).sum(1, keepdim=True) / 0.2 - 0.5 * normal[:, 3:, None, None]
    behind = functional.interpolate(behind, pictures.shape[-2:], mode="bilinear") + 3 * (0.5 - seen.y)
    return torch.sigmoid(-4 * behind)


@torch.no_grad()
def render_haze(clean: Images, config: HazeConfig, seeds: Sequence[int], depth: Tensor | None = None) -> Images:
    """Add haze to photographs in [0, 1]; the result is in [0, 1] on the same device.

    `depth` (B,1,H,W): distances in any unit, 0 or more; each map is divided by its maximum. None: `procedural_depth`.
    Result i depends on clean[i], seeds[i] and depth[i] alone. Raises ValueError for an empty batch, a number of seeds
    or depth maps other than one per image, and negative or non-finite depth.
    """
    scenes, randoms = draw_scenes(clean, config, "haze", seeds)
    scene = stacked(scenes, clean)
    warmth = torch.stack([torch.rand((), generator=random) - 0.5 for random in randoms]).sign().to(clean.device)
    distance = procedural_depth(clean, seeds) if depth is None else _relative(depth.to(clean.device), clean)
    transmission = torch.exp(-scene["beta"] * distance).to(clean.dtype)
    airlight = (_colour(scene["tint"], warmth) * scene["airlight"]).to(clean.dtype)
    darker = scene["unevenness"] * smooth_fields(view(clean, seeds), seeds, "airlight")
    return torch.lerp(airlight * (1 - darker).to(clean.dtype), clean, transmission).clamp_(0, 1)


def _colour(tint: Tensor, warmth: Tensor) -> Tensor:
    """Return RGB (B,3,1,1) with maximum 1: a ramp that falls towards blue for warmth 1 and towards red for -1."""
    ramp = torch.stack([warmth * place for place in (0.0, 0.5, 1.0)], dim=1)
    return 1 - tint * (ramp - ramp.amin(1, keepdim=True))[:, :, None, None]


def _relative(depth: Tensor, clean: Images) -> Tensor:
    if depth.shape != clean[:, :1].shape:
        raise ValueError(f"expected a depth map of shape {tuple(clean[:, :1].shape)}, got {tuple(depth.shape)}")
    depth = depth.float()
    if not torch.isfinite(depth).all() or depth.min() < 0:
        raise ValueError("depth must be finite and 0 or more everywhere")
    return depth / depth.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(depth.dtype).tiny)
