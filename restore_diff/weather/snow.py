"""Falling snow on clean photographs, each flake drawn where it falls, blurred by its motion and by the lens.

Flakes lie in the camera's cone of view, so that their number grows as the square of the distance z. A flake of diameter
D is seen D/z wide and moves by (speed x exposure)/z while the shutter is open; all fall at about the same speed
(Langleben, "The terminal velocity of snowflakes", QJRMS 1954). The lens is focused on the far end, so a point spreads
to a disc of diameter a (1/z - 1/z_far): near flakes are large, soft and translucent. Flakes that are wide enough to
have a shape are clusters of crystals.

A flake holds back a share z of the light from behind it and shows its own colour a instead: I = a z + y (1 - z)
(Liu et al., "DesnowNet", TIP 2018); flakes behind each other let through the product of their 1 - z. Then mist:
I = K T + A (1 - T) (Chen et al., "JSTASR", ECCV 2020; "ALL Snow Removed", ICCV 2021), here with the same T everywhere.
Both models mix the picture's values as they are."""

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from restore_diff.settings import SnowConfig
from restore_diff.tensors import Images
from restore_diff.weather.scene import draw_scenes, require_a_seed_each, under_veil
from restore_diff.weather.textures import TextureFolder, pixels_in_reach, spread

MAX_DEVIATION = 2.0
"""Standard deviations at which the spread of sizes and tilts is cut off, so that the widest flake is known."""

THINNEST = 0.4
"""Opacity of the most translucent flake over that of the densest."""

NUM_CRYSTALS = 6
SHAPED_PX = 3.0
"""Flakes wider than this consist of so many crystals, smaller ones of one."""

CRYSTAL_SHARES = (0.25, 0.55)
"""Least and greatest diameter of such a crystal over that of its flake."""

BLUR_TO_DISC = 4.0
"""Diameter of a disc over the standard deviation of the blur that it makes along an axis."""

SHORTEST_PATH_PX = 0.1
"""No flake stands stiller than this, because a path is divided by."""

MASK_SCALES = (0.7, 1.4)
"""Least and greatest size of the flakes of a mask, over that in its file."""

FLAKES_AT_ONCE = 65536
CRYSTALS_AT_ONCE = 2048
"""So many of an image are drawn, and of all painted, together; bounds the memory that large photographs need."""


@torch.no_grad()
def render_snow(clean: Images, config: SnowConfig, seeds: Sequence[int]) -> Images:
    """Let it snow on RGB photographs in [0, 1]; result in [0, 1] on the same device.

    Without a veil each value lies between that of the photograph and that of the flakes. Result i depends on clean[i]
    and seeds[i] alone. ValueError when there is no image, or not one seed per image; errors of masks as in
    `TextureFolder`.
    """
    require_a_seed_each(clean, seeds)
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
    return under_veil(clean * (1 - opacity) + colour * opacity, scenes)


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
    """Opacity by a piece of a mask: (1, height, width)."""
    size = float(torch.rand((), generator=random))
    scale = MASK_SCALES[0] * (MASK_SCALES[1] / MASK_SCALES[0]) ** size
    return scene["opacity"] * masks.crop(height, width, random, (scale,))


def _draw_flakes(scene: dict[str, Tensor], height: int, width: int, random: torch.Generator) -> Iterator[Crystals]:
    """Draw a Poisson number of flakes, uniform over an image and as far around as they reach, so many at once."""
    widest = scene["size_px"] * _diameter(scene, torch.tensor(MAX_DEVIATION))
    margin = (widest + _blur(scene, torch.ones(())) + scene["motion"] * scene["size_px"]) / 2
    sides = torch.stack([width + 2 * margin, height + 2 * margin])
    mean_area = math.pi / 4 * scene["size_px"].square() * 3 / (1 + scene["depth"] + scene["depth"].square())
    num_flakes = int(torch.poisson(scene["cover"] / mean_area * sides.prod(), generator=random))
    for start in range(0, num_flakes, FLAKES_AT_ONCE):
        count = min(FLAKES_AT_ONCE, num_flakes - start)
        middles = torch.rand(count, 2, generator=random) * sides - margin
        deviations = torch.randn(count, 2, generator=random).clamp(-MAX_DEVIATION, MAX_DEVIATION)
        chances = torch.rand(count, 2, generator=random)
        yield _shape(_expose(scene, middles, deviations, chances), random)


def _diameter(scene: dict[str, Tensor], deviation: Tensor) -> Tensor:
    """D: log-normal with mean square 1, so that spread alone leaves the area of all flakes as it is."""
    return torch.exp(scene["size_spread"] * deviation - scene["size_spread"].square())


def _blur(scene: dict[str, Tensor], distance: Tensor) -> Tensor:
    """Diameter of the disc to which lens and sensor spread a point."""
    defocus = scene["defocus"] * scene["size_px"] * (1 / distance - 1 / scene["depth"])
    return torch.hypot(BLUR_TO_DISC * scene["blur_px"], defocus)


def _expose(scene: dict[str, Tensor], middles: Tensor, deviations: Tensor, chances: Tensor) -> Crystals:
    """Turn chances into flakes by the formulas at the head of this file, each a single crystal."""
    nearness, thickness = chances.unbind(1)
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
    """Make each wide flake a cluster of crystals, none beyond its circle."""
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
    """Share of light that the crystals of each image hold back together: (B, 1, height, width)."""
    density = torch.zeros(len(drawn) * height * width, device=device)
    for of_each_image in zip_longest(*drawn, fillvalue=NOTHING):
        owner = torch.repeat_interleave(torch.tensor([len(crystals.x) for crystals in of_each_image])).to(device)
        crystals = (torch.cat(values).to(device) for values in zip(*of_each_image, strict=True))
        for parts in zip(*(values.split(CRYSTALS_AT_ONCE) for values in (owner, *crystals)), strict=True):
            _add(Crystals(*parts[1:]), parts[0], height, width, density)
    return -torch.expm1(-density).view(len(drawn), 1, height, width)


def _add(crystals: Crystals, owner: Tensor, height: int, width: int, density: Tensor) -> None:
    """Add crystal k in image owner[k] to `density` (B * height * width): minus the log of what it lets through."""
    reach = (crystals.width + crystals.blur) / 2
    half_height = reach + crystals.path / 2 * crystals.tilt.cos()
    half_width = reach / crystals.tilt.cos()
    x, y, tilt = crystals.x, crystals.y, crystals.tilt
    crystal, row, column = pixels_in_reach(x, y, tilt, half_height, half_width, height, width)
    (image,) = spread(crystal, owner)
    opacity = _opacity(crystals, crystal, row, column)
    density.index_add_(0, (image * height + row) * width + column, -torch.log1p(-opacity))


def _opacity(crystals: Crystals, crystal: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """A disc, spread by another disc, and averaged in closed form over its path.

    Where the discs of diameters w and b overlap wholly the spread one is flat, up to the radius |w - b| / 2; it ends at
    (w + b) / 2, and falls in between as the square of the radius. Whatever the blur and the path, it keeps its sum.
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
