"""Weather of several kinds, one upon the other in the order in which light meets them on its way into the camera."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from restore_diff.data.weather.config import Mixture, Weather
from restore_diff.randomness import generator
from restore_diff.tensors import Images

Layer = Callable[[Images, Sequence[int]], Images]
"""(images (B,3,H,W) in [0, 1], one seed per image) -> with weather, likewise; image i depends on row i alone."""


Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Rendering(Generic[Settings]):
    """A layer: a function that renders, with its settings; can be sent to worker processes."""

    render: Callable[[Images, Settings, Sequence[int]], Images]
    settings: Settings

    def __call__(self, images: Images, seeds: Sequence[int]) -> Images:
        return self.render(images, self.settings, seeds)


class WeatherRenderer:
    """Renders on each image one kind of weather; can be sent to worker processes."""

    def __init__(self, mixture: Mixture, layers: Mapping[str, Layer], camera: Layer):
        """`layers`: the single weathers by name; `camera` comes last, on every image."""
        self.mixture = mixture
        self.layers = layers
        self.camera = camera

    def __call__(self, clean: Images, seeds: Sequence[int], weathers: Sequence[Weather | None] | None = None) -> Images:
        """Degrade photographs in [0, 1]. Where `weathers` holds None, the image's seed draws one of the mixture.

        Result i depends on clean[i], seeds[i] and weathers[i] alone. ValueError when there is not one seed, and one
        weather if any, per image.
        """
        named = [None] * len(seeds) if weathers is None else weathers
        if not len(clean) == len(seeds) == len(named):
            found = f"{len(clean)} images, {len(seeds)} seeds and {len(named)} weathers"
            raise ValueError(f"expected one seed and one weather per image, got {found}")
        kinds = self.kinds(seeds, named)
        degraded = clean.clone()
        for kind in sorted(set(kinds)):
            rows = [row for row, of_row in enumerate(kinds) if of_row == kind]
            images, its_seeds = clean[rows], [seeds[row] for row in rows]
            for layer in [] if kind == "none" else kind.split("+"):
                images = self.layers[layer](images, its_seeds)
            degraded[rows] = images
        return self.camera(degraded, seeds)

    def kinds(self, seeds: Sequence[int], weathers: Sequence[Weather | None]) -> list[Weather]:
        """What a call with these renders on each image."""
        return [kind or self._draw(seed) for kind, seed in zip(weathers, seeds, strict=True)]

    def _draw(self, seed: int) -> Weather:
        shares = torch.tensor(list(self.mixture.values()), dtype=torch.float64)
        place = torch.multinomial(shares, 1, generator=generator(seed, "kind of weather"))
        return list(self.mixture)[int(place)]
