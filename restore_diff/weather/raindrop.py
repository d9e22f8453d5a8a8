"""Raindrops on the glass in front of the camera; each shows the scene upside down, reduced and darker.

The image is (1 - M) B + R with the scene B, the mask M and the light R of the drops (Qian et al., "Attentive generative
adversarial network for raindrop removal", CVPR 2018). A drop is a lens: it refracts a ray towards its middle by the
slope of a spherical cap, so that the scene appears inverted and at a wide angle, sky below and ground above (Roser &
Geiger, "Video-based raindrop detection for improved image registration", ICCV workshops 2009; von Bernuth et al.,
"Rendering physically correct raindrops on windshields for robustness verification of camera-based object recognition",
IV 2018). Its upper outline is dark, and the sky makes a bright spot in its lower part. The camera is focused on the
scene, so R and M are blurred by a disc and B is not (Hao et al., "Learning from synthetic photorealistic raindrop for
single image raindrop removal", ICCV workshops 2019).

The outline is a disc whose radius varies with the angle by a few harmonics, stretched downwards. Drops that touch merge
like metaballs (Blinn, "A generalization of algebraic surface drawing", ACM TOG 1982). A running drop leaves a trail of
small drops above it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from restore_diff.settings import RaindropConfig
from restore_diff.tensors import Images
from restore_diff.weather.particles import MAX_DEVIATION, Particles, join, paint
from restore_diff.weather.scene import Scene, draw_scenes, stacked

BUMPS = torch.tensor([0.3, 0.2, 0.12])
"""Maximum amplitude of the harmonics 2, 3 and 4 of the outline, as a share of the radius."""

PULL = 1.35
"""Reach of the field of a drop, in radii."""

OUTLINE = (1 - 1 / PULL**2) ** 2
"""Field of a single drop at its outline."""

TRAIL = torch.linspace(0.55, 0.3, 6)
"""Radii of the drops of a trail relative to the running drop, upwards."""

TRAIL_STRETCH = 2.0
"""Height over width of the drops of a trail."""

TRAIL_GAPS = (0.7, 1.2)
"""Minimum and maximum distance of the drops of a trail relative to their height; below 1 they merge."""

TRAIL_START = 0.5
"""Distance between the middle of a running drop and its trail, in its radii."""

TRAIL_SWAY = 0.3
"""Maximum horizontal range between neighbours in a trail, in radii of the running drop."""

SKY_COLOUR = (0.93, 0.97, 1.0)
"""RGB of an overcast sky, relative to blue."""

CONTACT_ANGLE_DEG = 60.0
"""Angle between glass and water at the outline."""

RIM = 4
"""Exponent of the shading over the distance from the middle of a drop."""

RIM_BELOW = 0.3
"""Shading of the lower outline relative to the upper one."""

SPOT = (0.45, 0.2)
"""Slope of the surface at the bright spot relative to the outline, and standard deviation of the slopes in it."""

SHRINK = 4
"""Drops sample the scene from a copy reduced by this factor; they show it smaller still."""

WINDOW_PX = 512
"""Side of the windows in which a photograph is rendered; bounds the memory for large ones."""


@dataclass(frozen=True)
class Drops(Particles):
    """Outlines around which the field of a drop falls to 0; all upright."""

    at_once = 512
    radius: Tensor  # px, that of a disc of the same area
    stretch: Tensor  # height over width
    bumps: Tensor  # (drops, 3), shares of the radius
    phases: Tensor  # (drops, 3), radians

    def reach(self) -> tuple[Tensor, Tensor]:
        reach, stretch = PULL * self.radius * (1 + self.bumps.sum(1)), self.stretch.sqrt()
        return reach * stretch, reach / stretch

    def shade(self, across: Tensor, along: Tensor) -> Tensor:
        """Field of a drop, its weight, and the weight times the position (right, down): (pixels, 4).

        The weight is proportional to the volume, so that a large drop absorbs small ones.
        """
        stretch = self.stretch.sqrt()
        right, down = across / self.radius * stretch, along / self.radius / stretch
        angle = torch.atan2(down, right)
        edge = torch.ones_like(angle)
        for k in range(len(BUMPS)):
            edge += self.bumps[:, k] * torch.cos((k + 2) * angle + self.phases[:, k])
        right, down = right / edge, down / edge
        pull = (1 - (right.square() + down.square()) / PULL**2).clamp(min=0).square()
        volume = pull * self.radius**3
        return torch.stack([pull, volume, volume * right, volume * down], 1)


class Window(NamedTuple):
    """Part of an image, in pixels; it may extend beyond the border."""

    top: int
    left: int
    height: int
    width: int


def draw_drops(scene: Scene, height: int, width: int, random: torch.Generator) -> Drops:
    """Draw the drops of a scene, evenly over the image and a margin of their maximum reach and blur."""
    largest = scene["radius_px"] * torch.exp(MAX_DEVIATION * scene["size_spread"])
    reach = PULL * (1 + scene["irregularity"] * BUMPS.sum()) * scene["elongation"].sqrt()
    trail = TRAIL_START + 2 * TRAIL.sum() * math.sqrt(TRAIL_STRETCH) * TRAIL_GAPS[1]
    margin = scene["blur_px"] + largest * (reach + trail * (scene["running"] > 0))
    sides = torch.tensor([width, height]) + 2 * margin
    middles = _scatter(_density(scene), sides, random) - margin
    num_drops = len(middles)
    deviations = torch.randn(num_drops, generator=random).clamp(-MAX_DEVIATION, MAX_DEVIATION)
    draws = torch.rand(num_drops, 2, generator=random)
    drops = Drops(
        *middles.unbind(1),
        tilt=torch.zeros(num_drops),
        radius=scene["radius_px"] * torch.exp(scene["size_spread"] * deviations),
        stretch=scene["elongation"] ** draws[:, 0],
        bumps=scene["irregularity"] * BUMPS * torch.rand(num_drops, len(BUMPS), generator=random),
        phases=2 * math.pi * torch.rand(num_drops, len(BUMPS), generator=random),
    )
    running = drops.each(itemgetter(draws[:, 1] < scene["running"]))
    return join([drops, _trail(running, random)])


def _scatter(density: Tensor, sides: Tensor, random: torch.Generator) -> Tensor:
    """Positions (x, y) of drops, one per square of a randomly shifted grid; fewer overlap than if independent."""
    spacing = density.clamp(min=1e-9).rsqrt()
    columns, rows = (torch.arange(int(side / spacing) + 2) for side in sides)
    squares = torch.cartesian_prod(columns, rows) - torch.rand(2, generator=random)
    places = (squares + torch.rand(squares.shape, generator=random)) * spacing
    return places[(places < sides).all(1) & (places >= 0).all(1) & (density > 0)]


def _density(scene: Scene) -> Tensor:
    """Drops per pixel.

    Drops of mean area a that never overlap cover density * a of the glass, independent drops 1 - exp(-density * a).
    Those of `_scatter` overlap about half as often as independent ones: the mean of both densities is within 5 %.
    """
    quantiles = math.sqrt(2) * torch.erfinv(torch.linspace(-0.99, 0.99, 100))
    squares = torch.exp(2 * scene["size_spread"] * quantiles.clamp(-MAX_DEVIATION, MAX_DEVIATION)).mean()
    area = math.pi * scene["radius_px"].square() * squares * (1 + scene["running"] * TRAIL.square().sum())
    return (scene["covered"] - torch.log1p(-scene["covered"])) / 2 / area


def _trail(running: Drops, random: torch.Generator) -> Drops:
    """Drops of the trails above running drops; whether they merge varies by trail."""
    size = (len(running.x), len(TRAIL))
    sway = torch.rand(size, generator=random) - 0.5
    gaps = torch.empty(size[0], 1).uniform_(*TRAIL_GAPS, generator=random)
    heights = running.radius[:, None] * TRAIL * math.sqrt(TRAIL_STRETCH)
    above = TRAIL_START * running.radius[:, None] + gaps * (2 * heights).cumsum(1) - heights
    return Drops(
        x=(running.x[:, None] + TRAIL_SWAY * running.radius[:, None] * sway.cumsum(1)).flatten(),
        y=(running.y[:, None] - above).flatten(),
        tilt=torch.zeros(heights.numel()),
        radius=(running.radius[:, None] * TRAIL).flatten(),
        stretch=torch.full_like(heights, TRAIL_STRETCH).flatten(),
        bumps=running.bumps.repeat_interleave(len(TRAIL), 0),
        phases=2 * math.pi * torch.rand(heights.numel(), len(BUMPS), generator=random),
    )


class Water(NamedTuple):
    """Maps of the drops in a window."""

    covers: Tensor  # (images, 1, height, width): share of a pixel that is under water
    rim: Tensor  # likewise: distance from the middle of a drop, 1 at its outline
    place: Tensor  # (images, 2, height, width): right and down from the middle, 1 at the outline


def pour(drops: Sequence[Drops], window: Window, device: torch.device) -> Water:
    """Map the drops of each image."""
    fields = torch.zeros(len(drops), window.height, window.width, 4, device=device)
    paint(fields, [[_in_reach(of_image, window)] for of_image in drops], window.top, window.left)
    pull, volume, *moment = fields.unbind(-1)
    return _surface(pull[:, None], volume[:, None], torch.stack(moment, 1))


def _in_reach(drops: Drops, window: Window) -> Drops:
    half_height, half_width = drops.reach()
    y, x = drops.y - window.top, drops.x - window.left
    rows = (y + half_height >= 0) & (y - half_height <= window.height - 1)
    columns = (x + half_width >= 0) & (x - half_width <= window.width - 1)
    return drops.each(itemgetter(rows & columns))


def _surface(pull: Tensor, volume: Tensor, moment: Tensor) -> Water:
    radius = (volume / pull.clamp(min=1e-6)).pow(1 / 3)
    # The field of a single drop falls by almost exactly 1 / radius per pixel at its outline.
    covers = ((pull - OUTLINE) * radius + 0.5).clamp(0, 1) * (pull > 0)
    rim = PULL * (1 - pull.clamp(0, 1).sqrt()).sqrt()
    return Water(covers, rim.clamp(max=1), moment / volume.clamp(min=1e-6))


@torch.no_grad()
def render_raindrops(clean: Images, config: RaindropConfig, seeds: Sequence[int]) -> Images:
    """Add raindrops to RGB photographs in [0, 1]; the result is in [0, 1] on the same device.

    Pixels between drops stay unchanged. Result i depends on clean[i] and seeds[i] alone. Beyond the border, drops show
    the mirrored image. Raises ValueError unless there is one seed per image and at least one image.
    """
    scenes, randoms = draw_scenes(clean, config, "raindrop", seeds)
    height, width = clean.shape[-2:]
    drops = [draw_drops(scene, height, width, random) for scene, random in zip(scenes, randoms, strict=True)]
    scene = stacked(scenes, clean)
    small = _shrink(clean.float(), scene["smear_px"], config.smear_px[1])
    margin = math.ceil(config.blur_px[1])
    degraded = clean.clone()
    for window in _windows(height, width):
        wide = Window(window.top - margin, window.left - margin, window.height + 2 * margin, window.width + 2 * margin)
        light = _light(scene, small, pour(drops, wide, clean.device), wide, height, width)
        light = _defocus(light, scene["blur_px"])[..., margin:-margin, margin:-margin]
        part = degraded[..., window.top : window.top + window.height, window.left : window.left + window.width]
        part.copy_((part * (1 - light[:, 3:]) + light[:, :3]).clamp(0, 1))
    return degraded


def _windows(height: int, width: int) -> Iterator[Window]:
    for top in range(0, height, WINDOW_PX):
        for left in range(0, width, WINDOW_PX):
            yield Window(top, left, min(WINDOW_PX, height - top), min(WINDOW_PX, width - left))


def _shrink(clean: Images, smear_px: Tensor, largest_px: float) -> Images:
    """Return a reduced copy, blurred by a Gaussian of standard deviation `smear_px` (pixels of the large image)."""
    height, width = clean.shape[-2:]
    small = F.adaptive_avg_pool2d(clean, (math.ceil(height / SHRINK), math.ceil(width / SHRINK)))
    sigma = smear_px.view(-1, 1).expand(-1, 2) / SHRINK
    return gaussian_blur2d(small, 2 * math.ceil(3 * largest_px / SHRINK) + 1, sigma, border_type="replicate")


def _light(scene: Scene, small: Images, water: Water, window: Window, height: int, width: int) -> Tensor:
    """Light of the drops in a window, RGB, and the share of the scene that they hide: (images, 4, height, width)."""
    slope = _slope(water.place)
    right, down = slope.split(1, 1)
    above = (1 + down) / 2  # share of the sky in the surrounding light; 1 at the lower outline
    seen = _look_up(small, -scene["refraction_px"] * slope, window, height, width)
    light = torch.lerp(seen, _surroundings(scene, small, above), scene["surroundings"])
    light = light * (1 - scene["shading"] * water.rim**RIM * (1 - (1 - RIM_BELOW) * above))
    spot = torch.exp(-(right.square() + (down - SPOT[0]).square()) / (2 * SPOT[1] ** 2))
    light = torch.lerp(light, torch.ones_like(light), scene["highlight"] * spot)
    hides = water.covers * scene["opacity"]
    return torch.cat([light * hides, hides], 1)


def _surroundings(scene: Scene, small: Images, above: Tensor) -> Images:
    """Light from outside the image: a grey sky, and a ground of the mean colour of the image."""
    colour = small.mean((2, 3), keepdim=True)
    ground = scene["ground"] * colour / colour.amax(1, keepdim=True).clamp(min=1e-3)
    sky = scene["sky"] * torch.tensor(SKY_COLOUR, device=small.device).view(3, 1, 1)
    return torch.lerp(ground, sky, above)


def _slope(place: Tensor) -> Tensor:
    """Slope of a spherical cap relative to its outline: (images, 2, height, width), right and down."""
    cos2, sin2 = (f(math.radians(CONTACT_ANGLE_DEG)) ** 2 for f in (math.cos, math.sin))
    squared = place.square().sum(1, keepdim=True)
    return place / squared.sqrt().clamp(min=1) * (cos2 / (1 - sin2 * squared.clamp(max=1))).sqrt()


def _look_up(small: Images, offset: Tensor, window: Window, height: int, width: int) -> Images:
    """Sample the scene `offset` pixels (right, down) from each pixel of the window."""
    row = torch.arange(window.height, device=offset.device)[:, None] + window.top
    column = torch.arange(window.width, device=offset.device) + window.left
    x, y = (2 * (column + offset[:, 0]) + 1) / width - 1, (2 * (row + offset[:, 1]) + 1) / height - 1
    return F.grid_sample(small, torch.stack([x, y], -1), padding_mode="reflection", align_corners=False)


def _defocus(light: Tensor, radius: Tensor) -> Tensor:
    """Blur each image by a disc of its radius, in pixels; exact farther than the radius from the border."""
    height, width = light.shape[-2:]
    down, right = (torch.fft.fftfreq(size, 1 / size, device=light.device) for size in (height, width))
    disc = (radius + 0.5 - torch.hypot(down[:, None], right)).clamp(0, 1)
    disc = disc / disc.sum((-2, -1), keepdim=True)
    return torch.fft.irfft2(torch.fft.rfft2(light) * torch.fft.rfft2(disc), s=(height, width)).clamp(0, 1)
