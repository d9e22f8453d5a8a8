"""diffusers loads the exported folder and computes the same output."""

import itertools
import json

import pytest
import torch

from restore_diff.checkpoint import Weights
from restore_diff.config import ExperimentConfig, config_from_dict
from restore_diff.interop.diffusers import DiffusersError, save_diffusers, unet2d_config
from restore_diff.models.unet import UNet
from restore_diff.settings import NetworkConfig
from restore_diff.trained import load_experiment

TINY = {"base_channels": 16, "channel_multipliers": [1, 2, 2], "num_blocks": 1, "num_groups": 8, "head_channels": 8}
NETWORKS = {
    "attention at a level and in the middle": {"attention_levels": [2]},
    "one head": {"attention_levels": [0, 2], "head_channels": 0},
    "no attention, two blocks": {"attention_levels": [], "mid_attention": False, "num_blocks": 2, "dropout": 0.1},
    "attention at a level alone": {"attention_levels": [1], "mid_attention": False},
    "one level": {"channel_multipliers": [2], "attention_levels": [0]},
    "narrowing": {"channel_multipliers": [2, 1, 3], "attention_levels": []},
}


def trained(changes: dict) -> tuple[ExperimentConfig, Weights]:
    """A config and random weights, so that no branch is zero as it is at the start."""
    config = config_from_dict({"model": TINY | changes, "data": {"crop_size_px": 16}, "tiling": {"tile_size_px": 0}})
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) * (0.5 if tensor.dim() == 1 else tensor[0].numel() ** -0.5)
        for name, tensor in UNet(config.model).state_dict().items()
    }
    return config, Weights(tensors, {}, 7)


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
def test_diffusers_loads_the_folder_and_computes_the_same(changes, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    config, weights = trained(changes)
    save_diffusers(tmp_path / "out" / "net", config, weights)
    theirs, report = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "net", output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.dropout == config.model.dropout

    ours = UNet(config.model).eval()
    ours.load_state_dict(weights.tensors)
    generator = torch.Generator().manual_seed(6)
    x_t, degraded = (torch.randn(2, 3, 16, 32, generator=generator) for _ in range(2))
    t = torch.tensor([0, 815])
    with torch.no_grad():
        expected = ours(x_t, t, degraded)
        found = theirs.eval()(torch.cat([degraded, x_t], dim=1), t).sample
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-5


def test_the_exported_weights_load_here_too(tmp_path):
    config, weights = trained({})
    save_diffusers(tmp_path, config, weights)
    _, read, back = load_experiment(tmp_path / "diffusion_pytorch_model.safetensors")
    assert (read, back.step) == (config, 7)
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in weights.tensors.items())


def test_a_pixel_unshuffle_is_refused_and_nothing_is_written(tmp_path):
    config, weights = trained({"unshuffle": 2})
    with pytest.raises(DiffusersError, match=r"does not support model\.unshuffle=2; use export onnx$"):
        save_diffusers(tmp_path / "net", config, weights)
    assert not (tmp_path / "net").exists()


def test_a_failed_write_leaves_no_folder_that_loads(tmp_path, monkeypatch):
    config, weights = trained({})
    save_diffusers(tmp_path, config, weights)
    assert json.loads((tmp_path / "config.json").read_text())["norm_num_groups"] == 8

    def full(path, *more):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("restore_diff.interop.diffusers.save_weights", full)
    with pytest.raises(OSError, match="No space"):
        save_diffusers(tmp_path, config, weights)
    assert not (tmp_path / "config.json").exists()


def test_every_setting_of_a_network_reaches_diffusers():
    """Networks that differ in one setting differ in the exported config; a new setting must be added here."""
    changes = {"base_channels": 64, "channel_multipliers": (1, 2), "num_blocks": 1, "attention_levels": (0,)}
    changes |= {"mid_attention": False, "head_channels": 32, "num_groups": 16, "dropout": 0.5}
    changes |= {"image_channels": 1, "condition_channels": 1}
    others = {"unshuffle", "kind", "options", "hint", "labels", "recognise"}
    assert {*changes} | others == {*NetworkConfig.__dataclass_fields__}  # type: ignore[attr-defined]
    configs = [unet2d_config(NetworkConfig(**change)) for change in [{}, *({key: changes[key]} for key in changes)]]
    assert all(first != second for first, second in itertools.combinations(configs, 2))
