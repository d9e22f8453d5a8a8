"""One dial from fast to best: named sets of what sampler, tiles and arithmetic a restoration uses."""

from typing import Any

from restore_diff import build
from restore_diff.config import ExperimentConfig

QUALITIES = ("fast", "balanced", "best")

DIRECT: dict[str, dict[str, Any]] = {
    "fast": {"sampler__num_steps": 1, "sampler__num_samples": 1},
    "balanced": {},
    "best": {"sampler__num_steps": 1, "sampler__num_samples": 8, "sampler__mirror": True},
}
"""For networks that put out the clean image, or a residual: one step is a restoration already. More
are no better with the weights that ship (docs/speed.md), and little better with others (docs/results/solvers.md)."""

STEPWISE: dict[str, dict[str, Any]] = {
    "fast": {"sampler__num_steps": 5, "sampler__spacing": "trailing", "sampler__clip": True, "tiling__grid": "shifted"},
    "balanced": {"sampler__num_steps": 10, "sampler__spacing": "trailing", "sampler__clip": True},
    "best": {"sampler__num_steps": 25, "sampler__num_samples": 4, "sampler__mirror": True},
}
"""For networks that put out epsilon or velocity: they need steps."""


def at_quality(config: ExperimentConfig, quality: str) -> ExperimentConfig:
    """The config with what that quality sets; "balanced" is the config's own choice where its network is direct.

    Tiles of a stepwise network overlap by a quarter, for "best" by a half, and fade smoothly.
    """
    direct = config.diffusion.prediction in ("clean", "residual")
    changes = (DIRECT if direct else STEPWISE)[quality]
    if not direct:
        overlap = config.tiling.tile_size_px // (2 if quality == "best" else 4)
        changes = {**changes, "tiling__window": "hann", "tiling__tile_overlap_px": overlap}
    return build.with_overrides(config, **changes)
