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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from restore_diff.settings import RainConfig
from restore_diff.tensors import Images
from restore_diff.weather.particles import MAX_DEVIATION, Particles, paint, scatter
from restore_diff.weather.scene import Scene, add_veil, draw_scenes, stacked
from restore_diff.weather.textures import TextureFolder, draw_scale

BLUR_REACH = 2.5
"""Standard deviations of its blur beyond which the light of a streak is ignored."""

DEFOCUS = 0.3
"""Blur of a near drop over its width: the camera is focused on the scene behind it."""


@torch.no_grad()
def render_rain(clean: Images, config: RainConfig, seeds: Sequence[int]) -> Images:
    """Add rain to photographs in [0, 1]; the result is in [0, 1] on the same device. Without a veil, values only grow.

    Result i depends on clean[i] and seeds[i] alone. Raises ValueError unless there is one seed per image and at least
    one image; DataError and ImageError for textures that cannot be read.
    """
    scenes, randoms = draw_scenes(clean, config, "rain", seeds)
    images, _, height, width = clean.shape
    if config.textures:
        textures = TextureFolder(config.textures)
        pieces = [_cut(textures, s, height, width, random) for s, random in zip(scenes, randoms, strict=True)]
        light = torch.stack(pieces).to(clean.device)
    else:
        drawn = [_draw(s, height, width, random) for s, random in zip(scenes, randoms, strict=True)]
        light = torch.zeros(images, height, width, device=clean.device)
        paint(light, drawn)
    return add_veil(clean + light.view(images, 1, height, width).to(clean.dtype), stacked(scenes, clean))


@dataclass(frozen=True)
class Streaks(Particles):
    """Bars with tapered ends, blurred across by a Gaussian: thin streaks are fainter."""

    length: Tensor  # px
    width: Tensor  # px
    blur: Tensor  # px
    brightness: Tensor
    fade_in: Tensor  # px, at the upper end
    fade_out: Tensor  # px, at the lower end
    beading: Tensor  # share of the light
    frequency: Tensor  # radians per px along the streak
    phase: Tensor  # radians

    def reach(self) -> tuple[Tensor, Tensor]:
        side, end = self.width / 2 + BLUR_REACH * self.blur, self.length / 2 + BLUR_REACH * self.blur
        cos = self.tilt.cos()
        return end * cos + side * self.tilt.sin().abs(), side / cos

    def shade(self, across: Tensor, along: Tensor) -> Tensor:
        half_length = self.length / 2 + self.blur
        taper = _smoothstep((half_length + along) / self.fade_in)
        taper = (taper * _smoothstep((half_length - along) / self.fade_out)).sqrt()
        wave = torch.cos(self.frequency * along + self.phase)
        half_width, scale = self.width / 2 * taper, math.sqrt(0.5) / self.blur
        bar = (torch.erf((half_width + across) * scale) + torch.erf((half_width - across) * scale)) / 2
        return self.brightness * taper * (1 - self.beading * (1 + wave) / 2) * bar


def _smoothstep(position: Tensor) -> Tensor:
    position = position.clamp(0, 1)
    return position.square() * (3 - 2 * position)


def _cut(textures: TextureFolder, scene: Scene, height: int, width: int, random: torch.Generator) -> Tensor:
    """Cut streaks (1, height, width) out of a texture; half of the scenes add a farther layer at half the scale."""
    near, layers = draw_scale(random), torch.rand((), generator=random)
    return scene["brightness"] * textures.crop(height, width, random, (near,) if layers < 0.5 else (near, near / 2))


def _draw(scene: Scene, height: int, width: int, random: torch.Generator) -> Iterator[Streaks]:
    """Draw streaks, uniform over the image and a margin of their maximum reach."""
    largest = torch.exp(MAX_DEVIATION * scene["size_spread"])
    longest, widest = scene["length_px"] * largest.sqrt(), scene["width_px"] * largest
    margin = longest / 2 + widest / 2 + BLUR_REACH * torch.hypot(scene["blur_px"], DEFOCUS * widest)
    for draws in scatter(scene["density"], margin, height, width, random, num_uniform=4):
        yield _shape(scene, *draws)


def _shape(scene: Scene, middles: Tensor, deviations: Tensor, uniform: Tensor) -> Streaks:
    """Turn draws into streaks by the formulas of the module docstring. Drop density grows with the distance.

    (In a cone of view it grows with the square; then far rain dominates, which the veil already models.)
    """
    nearness, head, cycles, phase = uniform.unbind(1)
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
