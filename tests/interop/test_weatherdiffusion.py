"""An imported checkpoint of WeatherDiffusion computes the outputs of their own code, stored in the golden file.

Their network (32 channels, multipliers 1 and 2, 32 px) had the weights of `fill` below. Their sampler took 5 steps over
a 48 x 64 image in 32 px patches 16 px apart. The inputs are those of `noise` and `condition`.
"""

import argparse
import json
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from restore_diff.checkpoint import WeightsError
from restore_diff.commands.export import import_main
from restore_diff.diffusion.samplers import DDIMSampler
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.interop.weatherdiffusion import read_weatherdiffusion
from restore_diff.models.unet import UNet
from restore_diff.restoration.tiling import TiledPredictor
from restore_diff.trained import load_restorer

GOLDEN = json.loads((Path(__file__).parent / "weatherdiffusion_golden.json").read_text())


def fill(name: str, shape: list[int]) -> torch.Tensor:
    """Weights that are equal on all machines."""
    size = math.prod(shape)
    phase = sum(ord(letter) * place for place, letter in enumerate(name, start=1)) % 997
    values = torch.sin(torch.arange(size, dtype=torch.float64) * (1.7 + phase / 499) + phase).reshape(shape)
    if len(shape) == 1:
        return (0.1 * values + ("norm" in name and name.endswith("weight"))).float()
    return (values * math.sqrt(2 * shape[0] / size)).float()


PLACES = torch.arange(3 * 48 * 64, dtype=torch.float64)


def noise() -> torch.Tensor:
    return (torch.sin(PLACES * 12.9898) * 43758.5453 % 1 * 2 - 1).float().reshape(1, 3, 48, 64) * 1.7


def condition() -> torch.Tensor:
    """In [-1, 1]."""
    return torch.sin(PLACES * 0.013).float().reshape(1, 3, 48, 64)


def theirs(**changes) -> dict:
    tensors = {name: fill(name, shape) for name, shape in GOLDEN["shapes"].items()}
    zeros = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in tensors.items()}
    config = argparse.Namespace(data=argparse.Namespace(image_size=32))
    return {"epoch": 3, "step": 7, "state_dict": zeros, "ema_helper": tensors, "config": config} | changes


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.save(theirs(), tmp_path / "Tiny32.pth.tar")
    return tmp_path / "Tiny32.pth.tar"


@pytest.fixture
def network(checkpoint) -> UNet:
    imported = read_weatherdiffusion(checkpoint)
    model = UNet(imported.config.model).eval()
    model.load_state_dict(imported.tensors)
    return model


def thinned(images: torch.Tensor) -> torch.Tensor:
    return images[0, :, ::8, ::8].flatten()


@torch.inference_mode()
def test_the_network_computes_their_output(network):
    output = network(noise()[..., :32, :32], torch.tensor([700]), condition()[..., :32, :32])
    torch.testing.assert_close(thinned(output), torch.tensor(GOLDEN["network"]), rtol=0, atol=1e-5)


def test_the_sampler_computes_their_output(network, checkpoint):
    config = read_weatherdiffusion(checkpoint).config
    sampler = DDIMSampler(NoiseSchedule(config.schedule), "epsilon", replace(config.sampler, num_steps=5))
    tiled = TiledPredictor(network, replace(config.tiling, tiles_per_batch=4), network.size_multiple)
    sample = thinned(sampler.sample(tiled, condition(), lambda draw: noise()))
    golden = torch.tensor(GOLDEN["sampler"])
    assert (sample - golden).abs().max() < 1e-5 * golden.abs().max()


def test_the_config_is_inferred_from_the_tensors(checkpoint):
    imported = read_weatherdiffusion(checkpoint)
    model, tiling = imported.config.model, imported.config.tiling
    assert (model.base_channels, model.channel_multipliers, model.num_blocks) == (32, (1, 2), 2)
    assert (model.attention_levels, model.head_channels) == ((1,), 0)
    assert (tiling.tile_size_px, tiling.tile_overlap_px, tiling.window) == (32, 16, "box")
    assert imported.step == 7


def test_raw_weights_are_read_without_averaged_ones(tmp_path):
    raw = {f"module.{name}": fill(name, shape) for name, shape in GOLDEN["shapes"].items()}
    torch.save(theirs(state_dict=raw, ema_helper=None), tmp_path / "raw.pth.tar")
    assert read_weatherdiffusion(tmp_path / "raw.pth.tar").tensors["conv_in.weight"].abs().max() > 0


def test_an_imported_file_restores_a_photograph(checkpoint, tmp_path, capsys):
    weights = tmp_path / "out" / "tiny.safetensors"
    assert import_main(["weatherdiffusion", str(checkpoint), "-o", str(weights)]) == 0
    assert "1.0 M parameters, for tiles of 32 px, step 7" in capsys.readouterr().out
    restorer, description = load_restorer(weights, device="cpu", num_steps=2)
    assert "ddim 2 steps" in description
    assert restorer.restore(torch.rand(1, 3, 40, 50), ["a"]).shape == (1, 3, 40, 50)
    assert import_main(["weatherdiffusion", str(checkpoint), "-o", str(weights)]) == 2
    assert "exists already" in capsys.readouterr().err


class Hostile:
    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, capsys):
    witness = tmp_path / "ran"
    torch.save({"ema_helper": Hostile(witness)}, tmp_path / "new.pth.tar")
    (tmp_path / "old.pth.tar").write_bytes(pickle.dumps({"ema_helper": Hostile(witness)}))
    for name in ("new", "old"):
        command = ["weatherdiffusion", str(tmp_path / f"{name}.pth.tar"), "-o", str(tmp_path / "o.safetensors")]
        assert import_main(command) == 2
        message = capsys.readouterr().err
        assert "refused without running it" in message
        assert len(message.splitlines()) == 1
    assert not witness.exists()
    assert not (tmp_path / "o.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "a list$"),
        ({"epoch": 1}, "neither ema_helper nor state_dict"),
        ({"ema_helper": {"conv_in.weight": torch.zeros(4)}}, "not a network of WeatherDiffusion"),
        (theirs(ema_helper=theirs()["ema_helper"] | {"conv_out.bias": torch.zeros(5)}), "1 tensors do not fit"),
        (theirs(ema_helper=theirs()["ema_helper"] | {"extra.weight": torch.zeros(5)}), "first extra.weight"),
    ],
)
def test_another_checkpoint_is_refused_in_one_line(content, message, tmp_path):
    torch.save(content, tmp_path / "x.pth.tar")
    with pytest.raises(WeightsError, match=message) as caught:
        read_weatherdiffusion(tmp_path / "x.pth.tar")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path):
    for content in (b"", b"hello", (Path(__file__)).read_bytes()):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(WeightsError, match="refused without running it: damaged, or not a torch checkpoint"):
            read_weatherdiffusion(tmp_path / "x")
    with pytest.raises(OSError, match="No such file"):
        read_weatherdiffusion(tmp_path / "absent")
