"""examples/average_weights.py: the mean of the weights of several runs."""

import runpy
from pathlib import Path

import pytest
import torch

from restore_diff import build
from restore_diff.checkpoint import load_weights, save_weights
from restore_diff.config import load_config, to_dict

EXAMPLE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples/average_weights.py"))
TINY = ["model.base_channels=8", "model.channel_multipliers=[1,2]", "model.num_groups=4", "model.num_blocks=1"]


@pytest.fixture
def saved(tmp_path):
    def save(seed: int, *overrides: str) -> Path:
        config = load_config(["derain.yaml"], [*TINY, f"seed={seed}", *overrides])
        path = tmp_path / f"{seed}.safetensors"
        save_weights(path, build.network(config).state_dict(), to_dict(config), step=seed)
        return path

    return save


def test_each_weight_is_the_mean_of_all_files_and_the_config_that_of_the_last(saved, tmp_path):
    paths = [saved(seed) for seed in (3, 4, 8)]
    assert EXAMPLE["main"]([*map(str, paths), "-o", str(tmp_path / "mean.safetensors")]) == 0
    mean = load_weights(tmp_path / "mean.safetensors")
    assert (mean.step, mean.config["seed"]) == (8, 8)
    for name, tensor in mean.tensors.items():
        expected = sum(load_weights(path).tensors[name].double() for path in paths) / 3
        torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=1e-7)


def test_different_networks_have_no_mean(saved, tmp_path, capsys):
    paths = [saved(1), saved(2, "model.base_channels=16")]
    assert EXAMPLE["main"]([*map(str, paths), "-o", str(tmp_path / "mean.safetensors")]) == 2
    assert "1.safetensors: its network (`model`) differs from that of" in capsys.readouterr().err
    assert not (tmp_path / "mean.safetensors").exists()
