"""Particles on photographs: streaks, flakes and drops, drawn at random and painted at sub-pixel positions."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import itemgetter
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

MAX_DEVIATION = 2.0
"""Standard deviations at which the spread of sizes and tilts is cut off, which bounds the reach of a particle."""


@dataclass(frozen=True)
class Particles(ABC):
    """One value per particle in each field. Subclasses add the fields that their shape depends on."""

    at_once: ClassVar[int] = 2048
    """Particles painted together; bounds the memory that a large photograph needs."""

    x: Tensor  # px, of the middle
    y: Tensor
    tilt: Tensor  # of the axis in radians, less than a quarter turn; positive: lower end to the right

    @abstractmethod
    def reach(self) -> tuple[Tensor, Tensor]:
        """Return how far, in px, particles extend from their middle over rows, and in each row from their axis."""

    @abstractmethod
    def shade(self, across: Tensor, along: Tensor) -> Tensor:
        """Return what particle i adds to a pixel that is across[i], along[i] px from its middle, by its axis."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to each field."""
        return replace(self, **{name: change(values) for name, values in vars(self).items()})


P = TypeVar("P", bound=Particles)


def scatter(
    density: Tensor,
    margin: Tensor,
    height: int,
    width: int,
    random: torch.Generator,
    num_uniform: int,
    at_once: int = sys.maxsize,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Draw a Poisson number of particles, uniform over the image and a margin; yield at most `at_once` at a time.

    Of each particle: its middle (x, y), two normal deviations, and `num_uniform` numbers from 0 to 1.
    """
    sides = torch.stack([width + 2 * margin, height + 2 * margin])
    num_particles = int(torch.poisson(density * sides.prod(), generator=random))
    for start in range(0, num_particles, at_once):
        count = min(at_once, num_particles - start)
        middles = torch.rand(count, 2, generator=random) * sides - margin
        deviations = torch.randn(count, 2, generator=random).clamp(-MAX_DEVIATION, MAX_DEVIATION)
        yield middles, deviations, torch.rand(count, num_uniform, generator=random)


def join(parts: Sequence[P]) -> P:
    """Concatenate particles."""
    return replace(parts[0], **{name: torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def paint(canvas: Tensor, drawn: Sequence[Iterable[P]], top: int = 0, left: int = 0) -> None:
    """Add particles to a canvas (images, height, width, ...) whose upper left pixel is (top, left).

    `drawn` holds batches of particles for each image.
    """
    for batch in zip_longest(*drawn):
        counts = torch.tensor([0 if part is None else len(part.x) for part in batch])
        image = torch.repeat_interleave(counts).to(canvas.device)
        particles = join([part for part in batch if part is not None]).each(lambda values: values.to(canvas.device))
        for start in range(0, len(image), particles.at_once):
            some = slice(start, start + particles.at_once)
            _add(canvas, particles.each(itemgetter(some)), image[some], top, left)


def _add(canvas: Tensor, particles: Particles, image: Tensor, top: int, left: int) -> None:
    """Add particle k to canvas[image[k]]."""
    height, width = canvas.shape[1:3]
    half_height, half_width = particles.reach()
    middle = particles.y - top
    particle, row = _ranges(middle - half_height, middle + half_height, height)
    at = _select(particle)
    slope, reach = at(particles.tilt.tan()), at(half_width)
    middle = at(particles.x - left) + (row - at(middle)) * slope
    line, column = _ranges(middle - reach, middle + reach, width)

    at = _select(_select(line)(particle))
    here, row = particles.each(at), _select(line)(row)
    cos, sin = at(particles.tilt.cos()), at(particles.tilt.sin())
    right, down = column + left - here.x, row + top - here.y
    added = here.shade(right * cos - down * sin, right * sin + down * cos)
    canvas.view(-1, *canvas.shape[3:]).index_add_(0, (at(image) * height + row) * width + column, added)


def _select(index: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that selects rows; index_select is much faster on a CPU than []."""
    return lambda values: values.index_select(0, index)


def _ranges(first: Tensor, last: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """List the integers from first[i] to last[i] within 0 .. size - 1, for all i in order: (i, integer)."""
    start = first.ceil().clamp(min=0).long()
    count = (last.floor().clamp(max=size - 1).long() - start + 1).clamp(min=0)
    index = torch.repeat_interleave(count)
    skipped = count.cumsum(0) - count
    return index, torch.arange(len(index), device=first.device) + (start - skipped).index_select(0, index)
