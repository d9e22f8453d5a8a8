"""Raindrops on the glass before the camera, through each of which the scene is seen upside down, small and dim.

The picture is (1 - M) B + R: what the drops leave of the scene B, and their own light R (Qian et al., "Attentive
generative adversarial network for raindrop removal", CVPR 2018). A drop is a lens: a ray through it is bent towards the
drop's middle by its thickness' slope, that of a spherical cap, so that the scene appears inverted and at a wide angle,
with the sky below and the ground above (Roser & Geiger, "Video-based raindrop detection for improved image
registration", ICCV workshops 2009; von Bernuth et al., "Rendering physically correct raindrops on windshields for
robustness verification of camera-based object recognition", IV 2018). Its upper outline is dark, and the sky leaves a
bright spot in its lower part. The camera looks at the scene: the drops' light and their M are blurred to a disc, the
scene is not (Hao et al., "Learning from synthetic photorealistic raindrop for single image raindrop removal", ICCV
workshops 2019).
"""

import math
from collections.abc import Iterator, Sequence

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from restore_diff.data.weather.config import RaindropConfig
from restore_diff.data.weather.drop_shapes import Drops, Water, Window, draw_drops, pour
from restore_diff.data.weather.scene import draw_scenes, require_a_seed_each
from restore_diff.tensors import Images

SKY_COLOUR = (0.93, 0.97, 1.0)
"""That of an overcast sky, relative to its blue."""

CONTACT_ANGLE_DEG = 60.0
"""Between glass and water at a drop's outline."""

RIM = 4
"""Power of the distance from a drop's middle by which its shading grows."""

RIM_BELOW = 0.3
"""Shading of the lower outline, over that of the upper one."""

SPOT = (0.45, 0.2)
"""Slope of the surface where the bright spot is, over that at the outline, and standard deviation of slopes in it."""

SHRINK = 4
"""The scene is looked up in a copy as many times smaller; in a drop it appears smaller still."""

WINDOW_PX = 512
"""Side of the windows in which a photograph is rendered; bounds the memory that a large one needs."""


@torch.no_grad()
def render_raindrops(clean: Images, config: RaindropConfig, seeds: Sequence[int]) -> Images:
    """Put drops before RGB photographs in [0, 1]; result in [0, 1] on the same device. Between drops nothing changes.

    Result i depends on clean[i] and seeds[i] alone. What a drop shows from beyond the border is the picture mirrored.
    ValueError when there is no image, or not one seed per image.
    """
    require_a_seed_each(clean, seeds)
    height, width = clean.shape[-2:]
    scenes, randoms = draw_scenes(config, "raindrop", seeds)
    drops = [draw_drops(scene, height, width, random) for scene, random in zip(scenes, randoms, strict=True)]
    owner = torch.repeat_interleave(torch.tensor([len(drawn.x) for drawn in drops])).to(clean.device)
    drops = Drops(*(torch.cat(parts).to(clean.device) for parts in zip(*drops, strict=True)))
    scene = {name: torch.stack([s[name] for s in scenes]).to(clean.device).view(-1, 1, 1, 1) for name in scenes[0]}
    small = _shrink(clean.float(), scene["smear_px"], config.smear_px[1])
    margin = math.ceil(config.blur_px[1])
    degraded = clean.clone()
    for window in _windows(height, width):
        wide = Window(window.top - margin, window.left - margin, window.height + 2 * margin, window.width + 2 * margin)
        light = _light(scene, small, pour(drops, owner, len(clean), wide), wide, height, width)
        light = _defocus(light, scene["blur_px"])[..., margin:-margin, margin:-margin]
        part = degraded[..., window.top : window.top + window.height, window.left : window.left + window.width]
        part.copy_((part * (1 - light[:, 3:]) + light[:, :3]).clamp(0, 1))
    return degraded


def _windows(height: int, width: int) -> Iterator[Window]:
    for top in range(0, height, WINDOW_PX):
        for left in range(0, width, WINDOW_PX):
            yield Window(top, left, min(WINDOW_PX, height - top), min(WINDOW_PX, width - left))


def _shrink(clean: Images, smear_px: Tensor, largest_px: float) -> Images:
    """A small copy, blurred by a Gaussian whose standard deviation is `smear_px` of the large one's pixels."""
    height, width = clean.shape[-2:]
    small = F.adaptive_avg_pool2d(clean, (math.ceil(height / SHRINK), math.ceil(width / SHRINK)))
    sigma = smear_px.view(-1, 1).expand(-1, 2) / SHRINK
    return gaussian_blur2d(small, 2 * math.ceil(3 * largest_px / SHRINK) + 1, sigma, border_type="replicate")


def _light(scene: dict[str, Tensor], small: Images, water: Water, window: Window, height: int, width: int) -> Tensor:
    """(images, 4, height, width) of a window: the light of the drops, RGB, and what share of the scene they hide."""
    slope = _slope(water.place)
    right, down = slope.split(1, 1)
    above = (1 + down) / 2  # of the light that comes from beyond; at the lower outline all of it
    seen = _look_up(small, -scene["refraction_px"] * slope, window, height, width)
    light = torch.lerp(seen, _surroundings(scene, small, above), scene["surroundings"])
    light = light * (1 - scene["shading"] * water.rim**RIM * (1 - (1 - RIM_BELOW) * above))
    spot = torch.exp(-(right.square() + (down - SPOT[0]).square()) / (2 * SPOT[1] ** 2))
    light = torch.lerp(light, torch.ones_like(light), scene["highlight"] * spot)
    hides = water.covers * scene["opacity"]
    return torch.cat([light * hides, hides], 1)


def _surroundings(scene: dict[str, Tensor], small: Images, above: Tensor) -> Images:
    """Light from beyond the picture: a grey sky, and a ground of the picture's mean colour."""
    colour = small.mean((2, 3), keepdim=True)
    ground = scene["ground"] * colour / colour.amax(1, keepdim=True).clamp(min=1e-3)
    sky = scene["sky"] * torch.tensor(SKY_COLOUR, device=small.device).view(3, 1, 1)
    return torch.lerp(ground, sky, above)


def _slope(place: Tensor) -> Tensor:
    """Slope of a spherical cap, over that at its outline: (images, 2, height, width), right and down."""
    cos2, sin2 = (f(math.radians(CONTACT_ANGLE_DEG)) ** 2 for f in (math.cos, math.sin))
    squared = place.square().sum(1, keepdim=True)
    return place / squared.sqrt().clamp(min=1) * (cos2 / (1 - sin2 * squared.clamp(max=1))).sqrt()


def _look_up(small: Images, offset: Tensor, window: Window, height: int, width: int) -> Images:
    """What lies `offset` pixels, right and down, from each pixel of the window."""
    row = torch.arange(window.height, device=offset.device)[:, None] + window.top
    column = torch.arange(window.width, device=offset.device) + window.left
    x, y = (2 * (column + offset[:, 0]) + 1) / width - 1, (2 * (row + offset[:, 1]) + 1) / height - 1
    return F.grid_sample(small, torch.stack([x, y], -1), padding_mode="reflection", align_corners=False)


def _defocus(light: Tensor, radius: Tensor) -> Tensor:
    """Blur each image to discs of its radius, in pixels. What lies farther than it from the border is exact."""
    height, width = light.shape[-2:]
    down, right = (torch.fft.fftfreq(size, 1 / size, device=light.device) for size in (height, width))
    disc = (radius + 0.5 - torch.hypot(down[:, None], right)).clamp(0, 1)
    disc = disc / disc.sum((-2, -1), keepdim=True)
    return torch.fft.irfft2(torch.fft.rfft2(light) * torch.fft.rfft2(disc), s=(height, width)).clamp(0, 1)
