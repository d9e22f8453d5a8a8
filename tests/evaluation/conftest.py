from collections.abc import Callable

import pytest
import torch

from restore_diff.data.pairs import Pair
from restore_diff.evaluation.evaluator import Row


@pytest.fixture
def pairs() -> list[Pair]:
    """Four pairs of different sizes, smooth with noise, not on 8-bit levels."""
    generator = torch.Generator().manual_seed(0)

    def pair(name: str, height: int, width: int) -> Pair:
        clean = torch.rand(3, 1, 1, generator=generator) * torch.linspace(0, 1, width).expand(3, height, width)
        degraded = (clean + 0.1 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
        return Pair(clean, degraded, name)

    return [pair("d", 20, 24), pair("a/1", 16, 30), pair("c", 33, 12), pair("b", 20, 24)]


@pytest.fixture
def row() -> Callable[..., Row]:
    """Makes a row from a name and scores, e.g. row("a", psnr_rgb=30.0)."""

    def make(name: str, seed: int = 0, flags: tuple[str, ...] = (), **scores: float) -> Row:
        return Row(name, 480, 320, seed, scores, 0.25, flags)

    return make
