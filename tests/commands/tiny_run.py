"""train.py and test.py at tiny size: small PNG pairs, and a network that learns nothing but takes every step."""

import csv
import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from restore_diff.checkpoint import TENSORS
from restore_diff.commands import test, train

SMALL = [
    "model.base_channels=8",
    "model.channel_multipliers=[1,2]",
    "model.num_groups=4",
    "model.unshuffle=2",
    "data.crop_size_px=16",
    "data.num_workers=0",
    "training.batch_size=2",
    "training.num_steps=4",
    "training.warmup_steps=1",
    "training.log_every_steps=1",
    "sampler.num_steps=2",
    "tiling.tile_size_px=0",
    "tiling.tile_overlap_px=16",
    "evaluation.lpips=none",
]
PAIRS = ["data.train=pairs", "data.test=tests"]


def arguments(*more: str) -> list[str]:
    """Of a train.py that trains on pairs/ and tests on tests/."""
    return ["--cfg", "derain.yaml", "--device", "cpu", *SMALL, *PAIRS, *more]


def run_train(*more: str) -> int:
    return train.main(arguments(*more))


def run_test(*more: str) -> int:
    """On the CPU; where no model is involved, no device can be named."""
    return test.main([*more] if {"--pred", "--compare"} & {*more} else ["--device", "cpu", *more])


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_pairs(folder: Path, num: int, first: int = 0, names: tuple[str, str] = ("input/{}", "target/{}")) -> None:
    """Smooth pictures of 33 x 26 px, and the same with bright dots, as e.g. folder/input/000.png."""
    for number in range(first, first + num):
        draw = np.random.default_rng(number)
        ramps = [np.linspace(*draw.integers(0, 200, 2), 26)[:, None] + np.linspace(0, 50, 33) for _ in range(3)]
        clean = np.stack(ramps, axis=-1).astype(np.uint8)
        degraded = np.where(draw.random((26, 33, 1)) < 0.2, 255, clean).astype(np.uint8)
        for name, image in zip(names, (degraded, clean), strict=True):
            write_image(folder / f"{name.format(f'{number:03d}')}.png", image)


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with eleven pairs to train on, three to test on, and no weights of LPIPS in reach."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.delenv("RESTORE_DIFF_LPIPS_WEIGHTS", raising=False)
    write_pairs(folder / "pairs", 11)
    write_pairs(folder / "tests", 3, first=100)
    return folder


def scores(report: Path) -> list[dict[str, str]]:
    """The rows of per_image.csv, without the time they took."""
    with (report / "per_image.csv").open(newline="") as file:
        return [{name: text for name, text in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def summary(report: Path) -> dict[str, Any]:
    """summary.json, which must be JSON as its standard has it."""
    return json.loads((report / "summary.json").read_text(), parse_constant=_refuse)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def tensors(run: Path, step: int) -> dict[str, bytes]:
    """The tensor files of a checkpoint."""
    return {name: (run / f"checkpoints/{step:08d}" / name).read_bytes() for name in TENSORS}


def _refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")
