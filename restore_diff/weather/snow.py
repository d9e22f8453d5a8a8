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
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from restore_diff.settings import SnowConfig
from restore_diff.tensors import Images
from restore_diff.weather.scene import add_veil, check_seeds, draw_scenes
from restore_diff.weather.textures import TextureFolder, pixels_in_reach, spread

MAX_DEVIATION = 2.0
"""Standard deviations at which the spread of sizes and tilts is cut off, which bounds the widest flake."""

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

MASK_SCALES = (0.7, 1.4)
"""Minimum and maximum scale of the flakes of a mask, relative to its file."""

FLAKES_AT_ONCE = 65536
CRYSTALS_AT_ONCE = 2048
"""Flakes drawn per image and crystals painted per batch at a time; bounds the memory for large photographs."""


@torch.no_grad()
def render_snow(clean: Images, config: SnowConfig, seeds: Sequence[int]) -> Images:
    """Add snow to RGB photographs in [0, 1]; the result is in [0, 1] on the same device.

    Without a veil each value lies between the photograph and the colour of the flakes. Result i depends on clean[i] and
    seeds[i] alone. Raises ValueError unless there is one seed per image and at least one image; errors of masks as in
    `TextureFolder`.
    """
    check_seeds(clean, seeds)
    height, width = clean.shape[-2:]
    scenes, randoms = draw_scenes(config, "snow", seeds)
    if config.masks:
        masks = TextureFolder(config.masks)
        pieces = [_cut(masks, s, height, width, random) for s, random in zip(scenes, randoms, strict=True)]
        opacity = torch.stack(pieces).to(clean)
    else:
        drawn = [_draw_flakes(s, height, width, random) for s, random in zip(scenes, randoms, strict=True)]
        opacity = _paint(drawn, height, width, clean.device).to(clean.dtype)
    colour = torch.stack([_colour(scene) for scene in scenes]).to(clean).view(-1, 3, 1, 1)
    return add_veil(clean * (1 - opacity) + colour * opacity, scenes)


class Crystals(NamedTuple):
    """One value per crystal. Positions and lengths in pixels, tilt in radians, opacity as a share."""

    x: Tensor
    y: Tensor
    tilt: Tensor
    path: Tensor  # moved along while the shutter is open
    width: Tensor  # before blur
    blur: Tensor  # diameter of the disc to which the lens spreads a point
    opacity: Tensor  # of a crystal that is wider than its blur and does not move


NOTHING = Crystals(*torch.zeros(len(Crystals._fields), 0))


def _colour(scene: dict[str, Tensor]) -> Tensor:
    """RGB of the flakes."""
    return scene["brightness"] * (1 - scene["blueness"] * torch.tensor([1.0, 0.5, 0.0]))


def _cut(masks: TextureFolder, scene: dict[str, Tensor], height: int, width: int, random: torch.Generator) -> Tensor:
    """Cut an opacity map (1, height, width) out of a mask."""
    size = float(torch.rand((), generator=random))
    scale = MASK_SCALES[0] * (MASK_SCALES[1] / MASK_SCALES[0]) ** size
    return scene["opacity"] * masks.crop(height, width, random, (scale,))


def _draw_flakes(scene: dict[str, Tensor], height: int, width: int, random: torch.Generator) -> Iterator[Crystals]:
    """Draw a Poisson number of flakes, uniform over the image and a margin of their maximum reach, in batches."""
    widest = scene["size_px"] * _diameter(scene, torch.tensor(MAX_DEVIATION))
    margin = (widest + _blur(scene, torch.ones(())) + scene["motion"] * scene["size_px"]) / 2
    sides = torch.stack([width + 2 * margin, height + 2 * margin])
    mean_area = math.pi / 4 * scene["size_px"].square() * 3 / (1 + scene["depth"] + scene["depth"].square())
    num_flakes = int(torch.poisson(scene["cover"] / mean_area * sides.prod(), generator=random))
    for start in range(0, num_flakes, FLAKES_AT_ONCE):
        count = min(FLAKES_AT_ONCE, num_flakes - start)
        middles = torch.rand(count, 2, generator=random) * sides - margin
        deviations = torch.randn(count, 2, generator=random).clamp(-MAX_DEVIATION, MAX_DEVIATION)
        draws = torch.rand(count, 2, generator=random)
        yield _shape(_expose(scene, middles, deviations, draws), random)


def _diameter(scene: dict[str, Tensor], deviation: Tensor) -> Tensor:
    """Diameter: log-normal with mean square 1, so that the spread does not change the total area."""
    return torch.exp(scene["size_spread"] * deviation - scene["size_spread"].square())


def _blur(scene: dict[str, Tensor], distance: Tensor) -> Tensor:
    """Diameter of the point spread disc of lens and sensor."""
    defocus = scene["defocus"] * scene["size_px"] * (1 / distance - 1 / scene["depth"])
    return torch.hypot(BLUR_TO_DISC * scene["blur_px"], defocus)


def _expose(scene: dict[str, Tensor], middles: Tensor, deviations: Tensor, draws: Tensor) -> Crystals:
    """Turn uniform draws into flakes by the formulas of the module docstring, each a single crystal."""
    nearness, thickness = draws.unbind(1)
    distance = torch.lerp(scene["depth"] ** 3, torch.ones(()), nearness).pow(1 / 3)
    return Crystals(
        *middles.unbind(1),
        tilt=torch.deg2rad(-scene["angle_deg"] - scene["angle_spread_deg"] * deviations[:, 1]),
        path=scene["motion"] * scene["size_px"] / distance,
        width=scene["size_px"] * _diameter(scene, deviations[:, 0]) / distance,
        blur=_blur(scene, distance),
        opacity=scene["opacity"] * torch.lerp(torch.tensor(THINNEST), torch.ones(()), thickness),
    )


def _shape(flakes: Crystals, random: torch.Generator) -> Crystals:
    """Make each wide flake a cluster of crystals inside its circle."""
    wide = flakes.width > SHAPED_PX
    flake = torch.repeat_interleave(torch.where(wide, NUM_CRYSTALS, 1))
    crystals, wide = Crystals(*(values[flake] for values in flakes)), wide[flake]
    size, distance, direction = torch.rand(len(flake), 3, generator=random).unbind(1)
    share = torch.where(wide, CRYSTAL_SHARES[0] + (CRYSTAL_SHARES[1] - CRYSTAL_SHARES[0]) * size, 1.0)
    offset = (1 - share) * crystals.width / 2 * distance.sqrt()
    return crystals._replace(
        x=crystals.x + offset * torch.cos(2 * math.pi * direction),
        y=crystals.y + offset * torch.sin(2 * math.pi * direction),
        width=crystals.width * share,
    )


def _paint(drawn: Sequence[Iterator[Crystals]], height: int, width: int, device: torch.device) -> Images:
    """Return the share of light that the crystals of each image block: (B, 1, height, width)."""
    density = torch.zeros(len(drawn) * height * width, device=device)
    for parts_by_image in zip_longest(*drawn, fillvalue=NOTHING):
        owner = torch.repeat_interleave(torch.tensor([len(crystals.x) for crystals in parts_by_image])).to(device)
        crystals = (torch.cat(values).to(device) for values in zip(*parts_by_image, strict=True))
        for parts in zip(*(values.split(CRYSTALS_AT_ONCE) for values in (owner, *crystals)), strict=True):
            _add(Crystals(*parts[1:]), parts[0], height, width, density)
    return -torch.expm1(-density).view(len(drawn), 1, height, width)


def _add(crystals: Crystals, owner: Tensor, height: int, width: int, density: Tensor) -> None:
    """Add crystal k in image owner[k] to `density` (B * height * width): minus the log of its transmission."""
    reach = (crystals.width + crystals.blur) / 2
    half_height = reach + crystals.path / 2 * crystals.tilt.cos()
    half_width = reach / crystals.tilt.cos()
    x, y, tilt = crystals.x, crystals.y, crystals.tilt
    crystal, row, column = pixels_in_reach(x, y, tilt, half_height, half_width, height, width)
    (image,) = spread(crystal, owner)
    opacity = _opacity(crystals, crystal, row, column)
    density.index_add_(0, (image * height + row) * width + column, -torch.log1p(-opacity))


def _opacity(crystals: Crystals, crystal: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Opacity of a disc convolved with another disc and averaged over its path in closed form.

    For diameters w and b the profile is flat up to the radius |w - b| / 2, falls as the square of the radius and ends
    at (w + b) / 2. Its sum depends on neither the blur nor the path.
    """
    width, blur, path = crystals.width, crystals.blur, crystals.path.clamp(min=SHORTEST_PATH_PX)
    peak = crystals.opacity * width.square() / (width.square() + blur.square())
    outer, inner = ((width + blur) / 2).square(), ((width - blur) / 2).square()
    columns = (crystals.x, crystals.y, crystals.tilt.cos(), crystals.tilt.sin(), path / 2, outer, inner)
    x, y, cos, sin, half_path, outer, inner = spread(crystal, *columns)
    (height,) = spread(crystal, peak / (width * blur * path))
    right, down = column - x, row - y
    across, along = (right * cos - down * sin).square(), right * sin + down * cos
    first, last = along - half_path, along + half_path
    return (height * (_integral(outer - across, first, last) - _integral(inner - across, first, last))).clamp(0, 1)


def _integral(height: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Integral of max(0, height - v^2) over v from `first` to `last`."""
    height = height.clamp(min=0)
    half_width = height.sqrt()
    first, last = first.clamp(-half_width, half_width), last.clamp(-half_width, half_width)
    return (last - first) * (height - (first.square() + first * last + last.square()) / 3)
