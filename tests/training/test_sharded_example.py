"""examples/train_sharded.py: processes that hold a part of the states each do what one does that holds them all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from restore_diff import build, trained
from restore_diff.checkpoint import load_weights
from restore_diff.config import config_from_dict
from restore_diff.training.optimisation import Optimisation

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "name=sharded", "data.train=pairs", "data.num_workers=0", "data.crop_size_px=16", "data.num_validation=2",
    "model.base_channels=8", "model.channel_multipliers=[1,2]", "model.num_groups=4", "model.num_blocks=1",
    "model.unshuffle=1", "model.mid_attention=true", "model.head_channels=8", "training.batch_size=6",
    "training.num_steps=6", "training.warmup_steps=2", "training.save_every_steps=3", "training.log_every_steps=1",
    "training.max_gradient_norm=0.1", "sampler.num_steps=2", "tiling.tile_size_px=0",
]  # fmt: skip
pytestmark = pytest.mark.long


def torchrun(folder: Path, *more: str, num: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num}"]
    script = [str(ROOT / "examples/train_sharded.py"), "--cfg", "derain.yaml", "--device", "cpu", *SETTINGS, *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, *script], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pairs, and in runs/sharded a run of two processes."""
    folder = tmp_path_factory.mktemp("sharded")
    for number in range(8):
        clean = np.random.default_rng(number).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        for kind, image in (("target", clean), ("input", clean // 2 + 60)):
            (folder / "pairs" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / "pairs" / kind / f"{number}.png")
    done = torchrun(folder)
    assert done.returncode == 0, done.stderr
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_weights(folder / "runs/sharded/weights.safetensors").tensors


def shards(folder: Path, step: int) -> list[dict[str, torch.Tensor]]:
    """Of each process."""
    return [load_file(path) for path in sorted((folder / f"runs/sharded/sharded/{step:08d}").glob("*.safetensors"))]


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def stopped_after_three_steps(folder: Path, copy: Path) -> Path:
    """The pairs, and the run as it was when it had published its first checkpoint."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "runs/sharded/sharded/00000006")
    (copy / "runs/sharded/weights.safetensors").unlink()
    return copy


def test_two_processes_with_half_of_the_states_do_the_steps_of_one(folder, monkeypatch):
    monkeypatch.chdir(folder)
    config = config_from_dict(load_weights(folder / "runs/sharded/weights.safetensors").config)
    # The halves of a batch and their sum: the same numbers, so that Adam magnifies no rounding.
    config = build.with_overrides(config, training__num_micro_batches=2)
    network = build.network(config)
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    alone = Optimisation(network, build.diffusion(config), config.training, config.seed, torch.device("cpu"))
    batches = build.batches(config, build.training_sets(config)[0]).iter_from(0)
    for step in range(config.training.num_steps):
        alone.advance(step, batches)

    assert largest_difference(start, alone.ema.weights) > 1e-4
    assert largest_difference(weights(folder), alone.ema.weights) < 1e-6
    means = dict(zip(("loss", "gradient_norm"), alone.meter.read(), strict=True))
    logged = [json.loads(line) for line in (folder / "runs/sharded/metrics.jsonl").read_text().splitlines()]
    for name, mean in means.items():
        assert np.mean([line[name] for line in logged]) == pytest.approx(mean, rel=1e-5)


def test_each_process_keeps_and_writes_about_half(folder):
    parts = shards(folder, 6)
    sizes = [sum(tensor.nbytes for tensor in part.values()) for part in parts]
    four_times = 4 * sum(tensor.nbytes for tensor in weights(folder).values())  # weights, averages, two moments
    assert sum(sizes) == four_times
    assert max(sizes) < 0.55 * four_times


def test_a_run_resumed_after_three_steps_equals_an_uninterrupted_one_bit_for_bit(folder, tmp_path):
    copy = stopped_after_three_steps(folder, tmp_path / "copy")
    newest = copy / "runs/sharded/sharded/00000005"  # damaged: the one before it is used
    shutil.copytree(newest.with_name("00000003"), newest)
    next(newest.glob("*.safetensors")).unlink()
    manifest = newest / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"step": 3', '"step": 5', 1))
    done = torchrun(copy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resumed from checkpoint 00000003") == 1
    assert "checkpoint 00000005 damaged" in done.stdout
    for name, tensor in weights(copy).items():
        assert torch.equal(tensor, weights(folder)[name]), name
    for part, resumed in zip(shards(folder, 6), shards(copy, 6), strict=True):
        assert largest_difference(part, resumed) == 0


@pytest.mark.long
def test_a_run_of_two_processes_goes_on_on_three(folder, tmp_path):
    copy = stopped_after_three_steps(folder, tmp_path / "copy")
    done = torchrun(copy, num=3)
    assert done.returncode == 0, done.stderr
    assert len(shards(copy, 6)) == 3
    assert 0 < largest_difference(weights(copy), weights(folder)) < 1e-6


def test_the_weights_at_its_end_restore(folder):
    restorer, description = trained.load_restorer(folder / "runs/sharded/weights.safetensors", device="cpu")
    assert "(step 6)" in description
    image = torch.from_numpy(np.asarray(Image.open(folder / "pairs/input/0.png")).copy())
    restored = restorer.restore(image.permute(2, 0, 1)[None] / 255, ["0"])
    assert restored.shape == (1, 3, 24, 20)


def test_a_network_that_is_told_the_weather_is_refused(tmp_path):
    done = torchrun(tmp_path, "model.hint=true")
    assert done.returncode != 0
    assert "train_sharded.py: model.hint: sharded training does not support weather labels\n" in done.stderr
    assert not (tmp_path / "runs").exists()
