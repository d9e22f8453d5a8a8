"""Small images in folders."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from restore_diff.settings import DataConfig, RainConfig

sys.path.insert(0, str(Path(__file__).parent))  # for reading.py

MakeImages = Callable[..., Path]


@pytest.fixture
def make_images(tmp_path) -> MakeImages:
    """make_images("a/rain", ["1.png", "2.png"], size=(height, width)) writes new noise to each file."""
    count = iter(range(10_000))

    def make(folder: str, names: list[str], size: tuple[int, int] = (16, 16)) -> Path:
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(next(count)).integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        return tmp_path / folder

    return make


@pytest.fixture
def data_config() -> Callable[..., DataConfig]:
    """Return a function that makes a DataConfig of 8 px crops without workers, with changes."""

    def make(**changes) -> DataConfig:
        return DataConfig(**({"crop_size_px": 8, "num_workers": 0, "rain": RainConfig()} | changes))

    return make
