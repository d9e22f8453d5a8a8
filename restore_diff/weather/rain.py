"""Rain streaks on clean photographs, each drawn at a sub-pixel position.

A drop leaves a streak while the shutter is open. With D its diameter and z its distance, both relative, it falls at
v ~ D^(1/2), so the streak is D/z wide and v/z long, and adds light in proportion to the time that the drop covers a
pixel, D/v (Garg & Nayar, "Vision and Rain", IJCV 2007). There are more drops far away than near. Falling drops
oscillate, which makes streaks uneven (Garg & Nayar, "Photorealistic rendering of rain streaks", SIGGRAPH 2006).
Streaks can also be cut out of a folder of textures.

The grey light S is added to the coded values of the image, as in the light-rain benchmarks (Yang et al.,
"Deep joint rain detection and removal", CVPR 2017), and mist is added: (J + S) (1 - veil) + airlight * veil (Li et
al., "Heavy rain image restoration", CVPR 2019)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from restore_diff.settings import RainConfig
from restore_diff.tensors import Images
from restore_diff.weather.scene import add_veil, check_seeds, draw_scenes
from restore_diff.weather.textures import TextureFolder, pixels_in_reach

MAX_DEVIATION = 2.0
"""Standard deviations at which the spread of sizes and tilts is cut off, which bounds the longest streak."""

BLUR_REACH = 2.5
"""Standard deviations of its blur beyond which the light of a streak is ignored."""

DEFOCUS = 0.3
"""Blur of a near drop over its width: the camera is focused on the scene behind it."""

TEXTURE_SCALES = (0.7, 1.4)
"""Minimum and maximum scale of the near streaks of a texture, relative to its file."""

STREAKS_AT_ONCE = 2048
"""Streaks painted together; bounds the memory that a large photograph needs."""


@torch.no_grad()
def render_rain(clean: Images, config: RainConfig, seeds: Sequence[int]) -> Images:
    """Add rain to photographs in [0, 1]; the result is in [0, 1] on the same device. Without a veil, values only grow.

    Result i depends on clean[i] and seeds[i] alone. Raises ValueError unless there is one seed per image and at least
    one image; DataError and ImageError for textures that cannot be read.
    """
    check_seeds(clean, seeds)
    height, width = clean.shape[-2:]
    scenes, randoms = draw_scenes(config, "rain", seeds)
    if config.textures:
        textures = TextureFolder(config.textures)
        pieces = [_cut(textures, s, height, width, random) for s, random in zip(scenes, randoms, strict=True)]
        light = torch.stack(pieces).to(clean)
    else:
        drawn = [_draw_streaks(s, height, width, random) for s, random in zip(scenes, randoms, strict=True)]
        owner = torch.repeat_interleave(torch.tensor([len(streaks.x) for streaks in drawn])).to(clean.device)
        streaks = Streaks(*(torch.cat(parts).to(clean.device) for parts in zip(*drawn, strict=True)))
        light = _paint(streaks, owner, len(clean), height, width).to(clean.dtype)
    return add_veil(clean + light, scenes)


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


def _cut(textures: TextureFolder, scene: dict[str, Tensor], height: int, width: int, random: torch.Generator) -> Tensor:
    """Cut streaks (1, height, width) out of a texture; half of the scenes add a farther layer at half the scale."""
    size, layers = torch.rand(2, generator=random).tolist()
    near = TEXTURE_SCALES[0] * (TEXTURE_SCALES[1] / TEXTURE_SCALES[0]) ** size
    scales = (near,) if layers < 0.5 else (near, near / 2)
    return scene["brightness"] * textures.crop(height, width, random, scales)


def _draw_streaks(scene: dict[str, Tensor], height: int, width: int, random: torch.Generator) -> Streaks:
    """Draw a Poisson number of streaks, uniform over the image and a margin of their maximum reach."""
    largest = torch.exp(MAX_DEVIATION * scene["size_spread"])
    longest, widest = scene["length_px"] * largest.sqrt(), scene["width_px"] * largest
    margin = longest / 2 + widest / 2 + BLUR_REACH * torch.hypot(scene["blur_px"], DEFOCUS * widest)
    sides = torch.stack([width + 2 * margin, height + 2 * margin])
    num_streaks = int(torch.poisson(scene["density"] * sides.prod(), generator=random))
    middles = torch.rand(num_streaks, 2, generator=random) * sides - margin
    deviations = torch.randn(num_streaks, 2, generator=random).clamp(-MAX_DEVIATION, MAX_DEVIATION)
    draws = torch.rand(num_streaks, 4, generator=random)
    return _shape(scene, middles, deviations, draws)


def _shape(scene: dict[str, Tensor], middles: Tensor, deviations: Tensor, draws: Tensor) -> Streaks:
    """Turn uniform draws into streaks by the formulas of the module docstring. Drop density grows with the distance.

    (In a cone of view it grows with the square; then far rain dominates, which the veil already models.)
    """
    nearness, head, cycles, phase = draws.unbind(1)
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
    """Sum the light of all streaks, (num_images, 1, height, width); streak k belongs to image owner[k]."""
    light = torch.zeros(num_images * height * width, device=streaks.x.device)
    for parts in zip(*(values.split(STREAKS_AT_ONCE) for values in (owner, *streaks)), strict=True):
        image, part = parts[0], Streaks(*parts[1:])
        side, end = part.width / 2 + BLUR_REACH * part.blur, part.length / 2 + BLUR_REACH * part.blur
        half_height = end * part.tilt.cos() + side * part.tilt.sin().abs()
        half_width = side / part.tilt.cos()
        streak, row, column = pixels_in_reach(part.x, part.y, part.tilt, half_height, half_width, height, width)
        light.index_add_(0, (image[streak] * height + row) * width + column, _light(part, streak, row, column))
    return light.view(num_images, 1, height, width)


def _light(streaks: Streaks, streak: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the light of a bar with tapered ends, blurred across by a Gaussian: thin streaks are fainter."""
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
