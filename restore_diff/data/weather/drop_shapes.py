"""Water that sticks to glass: where each drop sits, its outline, and how its surface tilts.

A drop is a disc whose radius swings with the angle by a few harmonics, stretched downwards by its weight; drops that
touch flow into one another, as metaballs do (Blinn, "A generalization of algebraic surface drawing", ACM TOG 1982). A
running drop leaves a trail of small ones above it.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

MAX_DEVIATION = 2.0
"""Standard deviations at which the spread of sizes is cut off, so that the largest drop is known."""

BUMPS = torch.tensor([0.3, 0.2, 0.12])
"""Greatest share of the radius by which the outline of the most irregular drop swings 2, 3 and 4 times around."""

PULL = 1.35
"""Radii up to which a drop draws others towards it."""

OUTLINE = (1 - 1 / PULL**2) ** 2
"""Value of a single drop's field at its outline."""

TRAIL = torch.linspace(0.55, 0.3, 6)
"""Radii of the drops of a trail, from its running drop upwards, over that of the running drop."""

TRAIL_STRETCH = 2.0
"""Height over width of the drops of a trail."""

TRAIL_GAPS = (0.7, 1.2)
"""Least and greatest distance of the drops of a trail, over their height: below 1 they flow together."""

TRAIL_START = 0.5
"""Radii of the running drop between its middle and its trail."""

TRAIL_SWAY = 0.3
"""Radii of the running drop by which its trail may sway from one of its drops to the next, from left to right."""

DROPS_AT_ONCE = 512
"""Drops painted together; bounds the memory that a large photograph needs."""


class Drops(NamedTuple):
    """One row per drop. Positions and radii in pixels, phases in radians."""

    x: Tensor
    y: Tensor
    radius: Tensor  # that of a disc of the same area
    stretch: Tensor  # height over width
    bumps: Tensor  # (drops, 3), shares of the radius
    phases: Tensor  # (drops, 3)


class Window(NamedTuple):
    """A part of a picture, in pixels; it may reach beyond the border."""

    top: int
    left: int
    height: int
    width: int


def draw_drops(scene: dict[str, Tensor], height: int, width: int, random: torch.Generator) -> Drops:
    """Draw drops of a scene's settings, evenly over a picture and as far around it as they and their blur reach."""
    largest = scene["radius_px"] * torch.exp(MAX_DEVIATION * scene["size_spread"])
    reach = PULL * (1 + scene["irregularity"] * BUMPS.sum()) * scene["elongation"].sqrt()
    trail = TRAIL_START + 2 * TRAIL.sum() * math.sqrt(TRAIL_STRETCH) * TRAIL_GAPS[1]
    margin = scene["blur_px"] + largest * (reach + trail * (scene["running"] > 0))
    sides = torch.tensor([width, height]) + 2 * margin
    middles = _scatter(_density(scene), sides, random) - margin
    num_drops = len(middles)
    deviations = torch.randn(num_drops, generator=random).clamp(-MAX_DEVIATION, MAX_DEVIATION)
    chances = torch.rand(num_drops, 2, generator=random)
    drops = Drops(
        *middles.unbind(1),
        radius=scene["radius_px"] * torch.exp(scene["size_spread"] * deviations),
        stretch=scene["elongation"] ** chances[:, 0],
        bumps=scene["irregularity"] * BUMPS * torch.rand(num_drops, len(BUMPS), generator=random),
        phases=2 * math.pi * torch.rand(num_drops, len(BUMPS), generator=random),
    )
    running = Drops(*(values[chances[:, 1] < scene["running"]] for values in drops))
    return Drops(*(torch.cat(parts) for parts in zip(drops, _trail(running, random), strict=True)))


def _scatter(density: Tensor, sides: Tensor, random: torch.Generator) -> Tensor:
    """Places (x, y) of drops, one in each square of a grid that lies anywhere; were all free, more would meet."""
    spacing = density.clamp(min=1e-9).rsqrt()
    columns, rows = (torch.arange(int(side / spacing) + 2) for side in sides)
    squares = torch.cartesian_prod(columns, rows) - torch.rand(2, generator=random)
    places = (squares + torch.rand(squares.shape, generator=random)) * spacing
    return places[(places < sides).all(1) & (places >= 0).all(1) & (density > 0)]


def _density(scene: dict[str, Tensor]) -> Tensor:
    """Drops per pixel.

    Drops of mean area a that never meet cover density * a of the glass, drops at free places 1 - exp(-density * a).
    Those of `_scatter` meet about half as often as at free places: the mean of both densities is within some 5 %.
    """
    quantiles = math.sqrt(2) * torch.erfinv(torch.linspace(-0.99, 0.99, 100))
    squares = torch.exp(2 * scene["size_spread"] * quantiles.clamp(-MAX_DEVIATION, MAX_DEVIATION)).mean()
    area = math.pi * scene["radius_px"].square() * squares * (1 + scene["running"] * TRAIL.square().sum())
    return (scene["covered"] - torch.log1p(-scene["covered"])) / 2 / area


def _trail(running: Drops, random: torch.Generator) -> Drops:
    """The drops that running ones left above them; along one trail they flow together, along another they do not."""
    size = (len(running.x), len(TRAIL))
    sway = torch.rand(size, generator=random) - 0.5
    gaps = torch.empty(size[0], 1).uniform_(*TRAIL_GAPS, generator=random)
    heights = running.radius[:, None] * TRAIL * math.sqrt(TRAIL_STRETCH)
    above = TRAIL_START * running.radius[:, None] + gaps * (2 * heights).cumsum(1) - heights
    return Drops(
        x=(running.x[:, None] + TRAIL_SWAY * running.radius[:, None] * sway.cumsum(1)).flatten(),
        y=(running.y[:, None] - above).flatten(),
        radius=(running.radius[:, None] * TRAIL).flatten(),
        stretch=torch.full_like(heights, TRAIL_STRETCH).flatten(),
        bumps=running.bumps.repeat_interleave(len(TRAIL), 0),
        phases=2 * math.pi * torch.rand(heights.numel(), len(BUMPS), generator=random),
    )


class Water(NamedTuple):
    """Drops as they lie in a window."""

    covers: Tensor  # (images, 1, height, width): share of a pixel that is under water
    rim: Tensor  # likewise: distance from the middle of a drop, 1 at its outline
    place: Tensor  # (images, 2, height, width): right and down from the middle, 1 at the outline


def pour(drops: Drops, owner: Tensor, num_images: int, window: Window) -> Water:
    """Where the drops lie, of which drop k belongs to image owner[k]."""
    corner, sides = _boxes(drops, window)
    seen = (sides > 0).all(1)
    rows = (values[seen].split(DROPS_AT_ONCE) for values in (owner, corner, sides, *drops))
    fields = torch.zeros(num_images * window.height * window.width, 4, device=owner.device)
    for image, box_corner, box_sides, *part in zip(*rows, strict=True):
        drop, row, column = _pixels(box_corner, box_sides)
        pixel = (image[drop] * window.height + row) * window.width + column
        fields.index_add_(0, pixel, _pull(Drops(*part), drop, row + window.top, column + window.left))
    pull, volume, *moment = fields.view(num_images, window.height, window.width, 4).unbind(-1)
    return _surface(pull[:, None], volume[:, None], torch.stack(moment, 1))


def _surface(pull: Tensor, volume: Tensor, moment: Tensor) -> Water:
    radius = (volume / pull.clamp(min=1e-6)).pow(1 / 3)
    # The field of a single drop falls by almost exactly 1 / radius per pixel at its outline.
    covers = ((pull - OUTLINE) * radius + 0.5).clamp(0, 1) * (pull > 0)
    rim = PULL * (1 - pull.clamp(0, 1).sqrt()).sqrt()
    return Water(covers, rim.clamp(max=1), moment / volume.clamp(min=1e-6))


def _boxes(drops: Drops, window: Window) -> tuple[Tensor, Tensor]:
    """Upper left corner and sides, (drops, 2) each, of what every drop may change in a window; no side below 0."""
    reach = PULL * drops.radius * (1 + drops.bumps.sum(1))
    half = torch.stack([reach * drops.stretch.sqrt(), reach / drops.stretch.sqrt()], 1)
    middle = torch.stack([drops.y - window.top, drops.x - window.left], 1)
    size = torch.tensor([window.height, window.width], device=half.device)
    corner = torch.minimum((middle - half).ceil().clamp(min=0), size)
    end = torch.minimum((middle + half).floor() + 1, size)
    return corner.long(), (end - corner).clamp(min=0).long()


def _pixels(corner: Tensor, sides: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """List the pixels of all boxes, one box after another: (index of the box, row, column)."""
    count = sides.prod(1)
    box = torch.repeat_interleave(count)
    place = torch.arange(len(box), device=count.device) - (count.cumsum(0) - count)[box]
    row, column = place // sides[box, 1], place % sides[box, 1]
    return box, corner[box, 0] + row, corner[box, 1] + column


def _pull(drops: Drops, drop: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """A drop's field at a pixel, its weight where drops meet, and that times the place in it, right, down: (pixels, 4).

    The weight grows as the drop's volume, so that a large drop swallows small ones.
    """
    radius, stretch = drops.radius[drop], drops.stretch[drop].sqrt()
    right = (column - drops.x[drop]) / radius * stretch
    down = (row - drops.y[drop]) / radius / stretch
    angle = torch.atan2(down, right)
    edge = torch.ones_like(angle)
    for k in range(len(BUMPS)):
        edge += drops.bumps[drop, k] * torch.cos((k + 2) * angle + drops.phases[drop, k])
    right, down = right / edge, down / edge
    pull = (1 - (right.square() + down.square()) / PULL**2).clamp(min=0).square()
    volume = pull * radius**3
    return torch.stack([pull, volume, volume * right, volume * down], 1)
