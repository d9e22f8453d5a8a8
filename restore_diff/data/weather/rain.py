"""Rain streaks on clean photographs, each drawn where it falls, sharp to a fraction of a pixel.

A drop leaves a streak while the shutter is open. With D its diameter and z its distance, both relative, it falls at
v ~ D^(1/2), so the streak is D/z wide and v/z long, and adds light in proportion to the time that the drop covers a
pixel, D/v (Garg & Nayar, "Vision and Rain", IJCV 2007). There are more drops far away than near. Falling drops
oscillate, which makes streaks uneven (Garg & Nayar, "Photorealistic rendering of rain streaks", SIGGRAPH 2006).

The light S is added to the picture's values as they are, without colour, as in the light-rain benchmarks (Yang et al.,
"Deep joint rain detection and removal", CVPR 2017), then veiled by mist: (J + S) (1 - veil) + airlight * veil (Li et
al., "Heavy rain image restoration", CVPR 2019).
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor

from restore_diff.data.weather.config import RainConfig
from restore_diff.randomness import generator
from restore_diff.tensors import Images

MAX_DEVIATION = 2.0
"""Standard deviations at which the spread of sizes and tilts is cut off, so that the longest streak is known."""

BLUR_REACH = 2.5
"""Standard deviations of its blur beyond which a streak's light counts as nothing."""

DEFOCUS = 0.3
"""Blur of a near drop over its width: the camera looks at the scene, not at the drops before it."""

STREAKS_AT_ONCE = 2048
"""Streaks painted together; bounds the memory that a large photograph needs."""


class RainRenderer:
    """`render_rain` with its settings filled in; can be sent to worker processes."""

    def __init__(self, config: RainConfig):
        self.config = config

    def __call__(self, clean: Images, seeds: Sequence[int]) -> Images:
        return render_rain(clean, self.config, seeds)


@torch.no_grad()
def render_rain(clean: Images, config: RainConfig, seeds: Sequence[int]) -> Images:
    """Let it rain on photographs in [0, 1]; result in [0, 1] on the same device. Without a veil light is only added.

    Result i depends on clean[i] and seeds[i] alone. ValueError when there is no image, or not one seed per image.
    """
    if not 0 < len(clean) == len(seeds):
        raise ValueError(f"expected one seed per image, got {len(clean)} images and {len(seeds)} seeds")
    height, width = clean.shape[-2:]
    scenes, streaks = zip(*(_draw_rain(config, height, width, seed) for seed in seeds), strict=True)
    owner = torch.repeat_interleave(torch.tensor([len(drawn.x) for drawn in streaks]))
    streaks = Streaks(*(torch.cat(parts).to(clean.device) for parts in zip(*streaks, strict=True)))
    light = _paint(streaks, owner.to(clean.device), len(clean), height, width).to(clean.dtype)
    veil, airlight = (torch.stack([s[k] for s in scenes]).to(clean).view(-1, 1, 1, 1) for k in ("veil", "airlight"))
    return ((clean + light) * (1 - veil) + airlight * veil).clamp(0, 1)


class Streaks(NamedTuple):
    """One value per streak. Positions and sizes in pixels, tilt and phase in radians, the rest as shares."""

    x: Tensor
    y: Tensor
    tilt: Tensor
    length: Tensor
    width: Tensor
    blur: Tensor
    brightness: Tensor
    fade_in: Tensor  # px, at the upper end
    fade_out: Tensor  # px, at the lower end
    beading: Tensor
    frequency: Tensor  # radians per px along the streak
    phase: Tensor


def _draw_rain(config: RainConfig, height: int, width: int, seed: int) -> tuple[dict[str, Tensor], Streaks]:
    """Draw an image's settings, and a Poisson number of streaks, uniform over it and as far around as they reach."""
    random = generator(seed, "rain")
    names = [field.name for field in fields(config)]
    low, high = torch.tensor([getattr(config, name) for name in names]).unbind(1)
    scene = dict(zip(names, torch.lerp(low, high, torch.rand(len(names), generator=random)), strict=True))
    largest = torch.exp(MAX_DEVIATION * scene["size_spread"])
    longest, widest = scene["length_px"] * largest.sqrt(), scene["width_px"] * largest
    margin = longest / 2 + widest / 2 + BLUR_REACH * torch.hypot(scene["blur_px"], DEFOCUS * widest)
    sides = torch.stack([width + 2 * margin, height + 2 * margin])
    num_streaks = int(torch.poisson(scene["density"] * sides.prod(), generator=random))
    middles = torch.rand(num_streaks, 2, generator=random) * sides - margin
    deviations = torch.randn(num_streaks, 2, generator=random).clamp(-MAX_DEVIATION, MAX_DEVIATION)
    chances = torch.rand(num_streaks, 4, generator=random)
    return scene, _shape(scene, middles, deviations, chances)


def _shape(scene: dict[str, Tensor], middles: Tensor, deviations: Tensor, chances: Tensor) -> Streaks:
    """Turn chances into streaks by the formulas at the head of this file. The density of drops grows as the distance.

    (In a cone of view it grows as its square; but then far rain is all that is seen, and it belongs to the veil.)
    """
    nearness, head, cycles, phase = chances.unbind(1)
    distance = torch.lerp(scene["depth"] ** 2, torch.ones(()), nearness).sqrt()
    diameter = torch.exp(scene["size_spread"] * deviations[:, 0])
    length = scene["length_px"] * diameter.sqrt() / distance
    width = scene["width_px"] * diameter / distance
    blur = torch.hypot(scene["blur_px"], DEFOCUS * width)
    return Streaks(
        *middles.unbind(1),
        tilt=torch.deg2rad(-scene["angle_deg"] - scene["angle_spread_deg"] * deviations[:, 1]),
        length=length,
        width=width,
        blur=blur,
        brightness=scene["brightness"] * diameter.sqrt(),
        fade_in=scene["softness"] * head * length + 2 * blur,
        fade_out=scene["softness"] * (1 - head) * length + 2 * blur,
        beading=scene["beading"].expand_as(length),
        frequency=2 * math.pi * (1 + 3 * cycles) / length,
        phase=2 * math.pi * phase,
    )


def _paint(streaks: Streaks, owner: Tensor, num_images: int, height: int, width: int) -> Images:
    """Sum of the light of all streaks, where streak k falls in image owner[k]: (num_images, 1, height, width)."""
    light = torch.zeros(num_images * height * width, device=streaks.x.device)
    for parts in zip(*(values.split(STREAKS_AT_ONCE) for values in (owner, *streaks)), strict=True):
        image, part = parts[0], Streaks(*parts[1:])
        streak, row, column = _pixels_in_reach(part, height, width)
        light.index_add_(0, (image[streak] * height + row) * width + column, _light(part, streak, row, column))
    return light.view(num_images, 1, height, width)


def _pixels_in_reach(streaks: Streaks, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """List each pixel that each streak may light: (index of the streak, row, column), streak by streak, row by row."""
    side = streaks.width / 2 + BLUR_REACH * streaks.blur
    end = streaks.length / 2 + BLUR_REACH * streaks.blur
    half_height = end * streaks.tilt.cos() + side * streaks.tilt.sin().abs()
    streak, row = _ranges(streaks.y - half_height, streaks.y + half_height, height)
    middle = streaks.x[streak] + (row - streaks.y[streak]) * streaks.tilt.tan()[streak]
    half_width = (side / streaks.tilt.cos())[streak]
    line, column = _ranges(middle - half_width, middle + half_width, width)
    return streak[line], row[line], column


def _ranges(first: Tensor, last: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Whole numbers from first[i] to last[i] that lie in 0 .. size - 1, all i one after another: (i, number)."""
    start = first.ceil().clamp(min=0).long()
    count = (last.floor().clamp(max=size - 1).long() - start + 1).clamp(min=0)
    index = torch.repeat_interleave(count)
    skipped = count.cumsum(0) - count
    return index, torch.arange(len(index), device=first.device) + (start - skipped)[index]


def _light(streaks: Streaks, streak: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """A bar that tapers to its ends, blurred across by a Gaussian: thin streaks come out fainter, as on a sensor."""
    cos, sin = streaks.tilt.cos()[streak], streaks.tilt.sin()[streak]
    right, down = column - streaks.x[streak], row - streaks.y[streak]
    across, along = right * cos - down * sin, right * sin + down * cos
    half_length = (streaks.length / 2 + streaks.blur)[streak]
    taper = _smoothstep((half_length + along) / streaks.fade_in[streak])
    taper = (taper * _smoothstep((half_length - along) / streaks.fade_out[streak])).sqrt()
    wave = torch.cos(streaks.frequency[streak] * along + streaks.phase[streak])
    half_width = (streaks.width / 2)[streak] * taper
    scale = (math.sqrt(0.5) / streaks.blur)[streak]
    bar = (torch.erf((half_width + across) * scale) + torch.erf((half_width - across) * scale)) / 2
    return streaks.brightness[streak] * taper * (1 - streaks.beading[streak] * (1 + wave) / 2) * bar


def _smoothstep(position: Tensor) -> Tensor:
    position = position.clamp(0, 1)
    return position.square() * (3 - 2 * position)
