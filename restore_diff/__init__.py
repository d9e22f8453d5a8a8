"""Conditional image restoration by diffusion: removes rain, haze, snow and raindrops from photographs.

import restore_diff as rd
restorer = rd.load("shipped", quality="fast")
clean = restorer(Image.open("rainy.jpg"))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restore_diff.api import LoadedRestorer, Run, evaluate, load, sample, train
    from restore_diff.data.pairs import SOURCES
    from restore_diff.diffusion.guidance import GUIDANCE
    from restore_diff.diffusion.loss import LOSSES
    from restore_diff.diffusion.prediction import PREDICTIONS
    from restore_diff.diffusion.samplers import SAMPLERS
    from restore_diff.diffusion.schedule import SCHEDULES
    from restore_diff.models.unet import MODELS
    from restore_diff.tensors import CODECS
    from restore_diff.weather.renderer import WEATHERS

__version__ = "0.1.0"

_PLACES = {
    **dict.fromkeys(("load", "train", "evaluate", "sample", "LoadedRestorer", "Run"), "api"),
    "SOURCES": "data.pairs",
    "LOSSES": "diffusion.loss",
    "PREDICTIONS": "diffusion.prediction",
    "GUIDANCE": "diffusion.guidance",
    "SAMPLERS": "diffusion.samplers",
    "SCHEDULES": "diffusion.schedule",
    "MODELS": "models.unet",
    "CODECS": "trained",
    "WEATHERS": "weather.renderer",
}
"""Module of each public name; imported when the name is first used, so that `import restore_diff` is fast."""

__all__ = [  # noqa: RUF022  as in the docs: verbs, then the dicts that plugins add to
    "load",
    "train",
    "evaluate",
    "sample",
    "LoadedRestorer",
    "Run",
    "CODECS",
    "GUIDANCE",
    "LOSSES",
    "MODELS",
    "PREDICTIONS",
    "SAMPLERS",
    "SCHEDULES",
    "SOURCES",
    "WEATHERS",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'restore_diff' has no attribute {name!r}")
    return getattr(importlib.import_module(f"restore_diff.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
