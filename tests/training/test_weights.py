"""Weights for others, and the averaged weights of a run."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_run import toy_config, train

from restore_diff.checkpoint import (
    DamagedCheckpoint,
    NotFinite,
    WeightsError,
    list_checkpoints,
    load_checkpoint_weights,
    load_weights,
    save_weights,
)

CONFIG = {"seed": 3, "model": {"channel_multipliers": [1, 2]}}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(folder, toy_config())
    return folder


def test_weights_and_config_come_back_from_one_ordinary_safetensors_file(tmp_path):
    path, weights = tmp_path / "w.safetensors", {"w": torch.randn(2, 3).t()}
    save_weights(path, weights, CONFIG, step=400)
    loaded = load_weights(path)
    assert torch.equal(loaded.tensors["w"], weights["w"])
    assert (loaded.config, loaded.step) == (CONFIG, 400)
    assert torch.equal(load_file(path)["w"], weights["w"])
    assert load_checkpoint_weights(path).step == 400


def test_a_checkpoint_gives_its_averaged_weights(run):
    path = list_checkpoints(run / "checkpoints")[-1]
    tensors, config, step = load_checkpoint_weights(path)
    averaged = load_file(path / "ema.safetensors")
    assert tensors.keys() == averaged.keys()
    assert all(torch.equal(tensors[name], averaged[name]) for name in tensors)
    assert (config["seed"], step) == (3, 8)


def test_a_run_gives_its_best_checkpoint_else_the_newest_intact_one(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    assert load_checkpoint_weights(copy).step == 4
    (copy / "checkpoints" / "best.json").unlink()
    assert load_checkpoint_weights(copy).step == 8
    (copy / "checkpoints" / "00000008" / "ema.safetensors").unlink()
    lines: list[str] = []
    assert load_checkpoint_weights(copy, lines.append).step == 6
    assert lines == ["checkpoint 00000008 damaged (ema.safetensors: missing); using 00000006"]
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint_weights(copy / "checkpoints" / "00000008")


def test_files_of_others_and_broken_ones_are_refused_by_name(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match=r"foreign\.safetensors: its metadata holds no config"):
        load_weights(tmp_path / "foreign.safetensors")
    save_file({"w": torch.ones(1)}, tmp_path / "list.safetensors", {"restore_diff": "[1]"})
    with pytest.raises(WeightsError, match=r"list\.safetensors: its metadata is damaged"):
        load_weights(tmp_path / "list.safetensors")
    text = '{"config": {}, "step": 1}'
    save_file({"w": torch.tensor([float("nan")])}, tmp_path / "nan.safetensors", {"restore_diff": text})
    with pytest.raises(WeightsError, match=r"nan\.safetensors: w is not finite"):
        load_weights(tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match=r"absent"):
        load_checkpoint_weights(tmp_path / "absent")
    with pytest.raises(WeightsError, match=r"holds neither state\.json nor checkpoints"):
        load_checkpoint_weights(tmp_path)
    with pytest.raises(NotFinite):
        save_weights(tmp_path / "never", {"w": torch.tensor([float("inf")])}, {}, step=1)
    assert not (tmp_path / "never").exists()
