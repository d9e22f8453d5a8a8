"""What a network that knew everything would return."""

from collections.abc import Callable

import pytest
from torch import Tensor

KINDS: tuple[str, ...] = ("epsilon", "clean", "velocity", "residual")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def output_of() -> Callable[..., Tensor]:
    """(kind, clean, epsilon, signal, noise, degraded) -> the output that means just that, from its definition."""

    def output(kind, clean, epsilon, signal, noise, degraded):
        meanings = {
            "epsilon": lambda: epsilon,
            "clean": lambda: clean,
            "velocity": lambda: signal * epsilon - noise * clean,
            "residual": lambda: clean - degraded,
        }
        return meanings[kind]()

    return output
