"""Falling snow on clean photographs: single flakes, blurred by their motion and by the lens.

Flakes lie in the camera's cone of view, so that their number grows as the square of the distance z. A flake of diameter
D is seen D/z wide and moves by (speed x exposure)/z while the shutter is open; all fall at about the same speed
(Langleben, "The terminal velocity of snowflakes", QJRMS 1954). The lens is focused on the far end, so a point spreads
to a disc of diameter a (1/z - 1/z_far): near flakes are large, soft and translucent. Flakes that are wide enough to
have a shape are clusters of crystals.

A flake blocks a share z of the light from behind it and adds its own colour a: I = a z + y (1 - z)
(Liu et al., "DesnowNet", TIP 2018); overlapping flakes transmit the product of their 1 - z. Then mist is added:
I = K T + A (1 - T) (Chen et al., "JSTASR", ECCV 2020; "ALL Snow Removed", ICCV 2021), here with the same T everywhere.
Both models mix the coded values of the image."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from restore_diff.settings import SnowConfig
from restore_diff.tensors import Images
from restore_diff.weather.particles import MAX_DEVIATION, Particles, paint, scatter
from restore_diff.weather.scene import Scene, add_veil, draw_scenes, stacked
from restore_diff.weather.textures import TextureFolder, draw_scale

THINNEST = 0.4
"""Minimum opacity of a flake relative to the maximum."""

NUM_CRYSTALS = 6
SHAPED_PX = 3.0
"""Flakes wider than this consist of NUM_CRYSTALS crystals, smaller ones of one."""

CRYSTAL_SHARES = (0.25, 0.55)
"""Minimum and maximum diameter of such a crystal relative to its flake."""

BLUR_TO_DISC = 4.0
"""Diameter of a disc over the standard deviation of its blur along an axis."""

SHORTEST_PATH_PX = 0.1
"""Lower bound of the path, which is a divisor."""

FLAKES_AT_ONCE = 65536
"""Flakes drawn per image at a time; bounds the memory for large photographs."""


@torch.no_grad()
def render_snow(clean: Images, config: SnowConfig, seeds: Sequence[int]) -> Images:
    """Add snow to RGB photographs in [0, 1]; the result is in [0, 1] on the same device.

    Without a veil each value lies between the photograph and the colour of the flakes. Result i depends on clean[i] and
    seeds[i] alone. Raises ValueError unless there is one seed per image and at least one image; errors of masks as in
    `TextureFolder`.
    """
    scenes, randoms = draw_scenes(clean, config, "snow", seeds)
    images, _, height, width = clean.shape
    if config.masks:
        masks = TextureFolder(config.masks)
        pieces = [_cut(masks, s, height, width, random) for s, random in zip(scenes, randoms, strict=True)]
        opacity = torch.stack(pieces).to(clean)
    else:
        drawn = [_draw(s, height, width, random) for s, random in zip(scenes, randoms, strict=True)]
        density = torch.zeros(images, height, width, device=clean.device)
        paint(density, drawn)
        opacity = -torch.expm1(-density).view(images, 1, height, width).to(clean.dtype)
    scene = stacked(scenes, clean)
    blue = torch.tensor([1.0, 0.5, 0.0], device=clean.device).view(3, 1, 1)
    colour = (scene["brightness"] * (1 - scene["blueness"] * blue)).to(clean.dtype)
    return add_veil(clean * (1 - opacity) + colour * opacity, scene)


@dataclass(frozen=True)
class Discs(Particles):
    """Discs, blurred by another disc and drawn out by their motion: flakes or their crystals."""

    radius: Tensor  # with the blur
    core: Tensor  # radius of the inner part that is as opaque as the middle
    path: Tensor  # px, moved along while the shutter is open
    height: Tensor  # of the paraboloids whose difference is the opacity

    def reach(self) -> tuple[Tensor, Tensor]:
        cos = self.tilt.cos()
        return self.radius + self.path / 2 * cos, self.radius / cos

    def shade(self, across: Tensor, along: Tensor) -> Tensor:
        """Minus the logarithm of the transmission.

        The opacity is that of a disc convolved with another disc and averaged over its path in closed form. For
        diameters w and b the profile is flat up to the radius |w - b| / 2, falls as the square of the radius and ends
        at (w + b) / 2. Its sum depends on neither the blur nor the path.
        """
        half_path, across = self.path.clamp(min=SHORTEST_PATH_PX) / 2, across.square()
        first, last = along - half_path, along + half_path
        outer = _integral(self.radius.square() - across, first, last)
        inner = _integral(self.core.square() - across, first, last)
        return -torch.log1p(-(self.height * (outer - inner)).clamp(0, 1))


def _cut(masks: TextureFolder, scene: Scene, height: int, width: int, random: torch.Generator) -> Tensor:
    """Cut an opacity map (1, height, width) out of a mask."""
    scale = draw_scale(random)
    return scene["opacity"] * masks.crop(height, width, random, (scale,))


def _draw(scene: Scene, height: int, width: int, random: torch.Generator) -> Iterator[Discs]:
    """Draw flakes, uniform over the image and a margin of their maximum reach, in batches."""
    widest = scene["size_px"] * _diameter(scene, torch.tensor(MAX_DEVIATION))
    margin = (widest + _blur(scene, torch.ones(())) + scene["motion"] * scene["size_px"]) / 2
    mean_area = math.pi / 4 * scene["size_px"].square() * 3 / (1 + scene["depth"] + scene["depth"].square())
    density = scene["cover"] / mean_area
    for draws in scatter(density, margin, height, width, random, num_uniform=2, at_once=FLAKES_AT_ONCE):
        yield _crystals(_flakes(scene, *draws), random)


def _diameter(scene: Scene, deviation: Tensor) -> Tensor:
    """Diameter: log-normal with mean square 1, so that the spread does not change the total area."""
    return torch.exp(scene["size_spread"] * deviation - scene["size_spread"].square())


def _blur(scene: Scene, distance: Tensor) -> Tensor:
    """Diameter of the point spread disc of lens and sensor."""
    defocus = scene["defocus"] * scene["size_px"] * (1 / distance - 1 / scene["depth"])
    return torch.hypot(BLUR_TO_DISC * scene["blur_px"], defocus)


def _flakes(scene: Scene, middles: Tensor, deviations: Tensor, uniform: Tensor) -> dict[str, Tensor]:
    """Turn draws into flakes by the formulas of the module docstring."""
    nearness, thickness = uniform.unbind(1)
    distance = torch.lerp(scene["depth"] ** 3, torch.ones(()), nearness).pow(1 / 3)
    return {
        "x": middles[:, 0],
        "y": middles[:, 1],
        "tilt": torch.deg2rad(-scene["angle_deg"] - scene["angle_spread_deg"] * deviations[:, 1]),
        "path": scene["motion"] * scene["size_px"] / distance,
        "width": scene["size_px"] * _diameter(scene, deviations[:, 0]) / distance,
        "blur": _blur(scene, distance),
        "opacity": scene["opacity"] * torch.lerp(torch.tensor(THINNEST), torch.ones(()), thickness),
    }


def _crystals(flakes: dict[str, Tensor], random: torch.Generator) -> Discs:
    """Make each wide flake a cluster of crystals inside its circle."""
    flake = torch.repeat_interleave(torch.where(flakes["width"] > SHAPED_PX, NUM_CRYSTALS, 1))
    x, y, tilt, path, width, blur, opacity = (values[flake] for values in flakes.values())
    size, distance, direction = torch.rand(len(flake), 3, generator=random).unbind(1)
    share = torch.where(width > SHAPED_PX, CRYSTAL_SHARES[0] + (CRYSTAL_SHARES[1] - CRYSTAL_SHARES[0]) * size, 1.0)
    offset, width = (1 - share) * width / 2 * distance.sqrt(), width * share
    peak = opacity * width.square() / (width.square() + blur.square())
    return Discs(
        x=x + offset * torch.cos(2 * math.pi * direction),
        y=y + offset * torch.sin(2 * math.pi * direction),
        tilt=tilt,
        radius=(width + blur) / 2,
        core=(width - blur) / 2,
        path=path,
        height=peak / (width * blur * path.clamp(min=SHORTEST_PATH_PX)),
    )


def _integral(height: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Integral of max(0, height - v^2) over v from `first` to `last`."""
    height = height.clamp(min=0)
    half_width = height.sqrt()
    first, last = first.clamp(-half_width, half_width), last.clamp(-half_width, half_width)
    return (last - first) * (height - (first.square() + first * last + last.square()) / 3)
