"""Every example runs at a small size and does what its first lines promise."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from restore_diff.diffusion.loss import GaussianDiffusion
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.metrics.perceptual import LPIPS
from restore_diff.settings import DiffusionConfig, ScheduleConfig

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_s_curve_learns_its_distribution_and_draws_it(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert (EXAMPLES / "s_curve.py").read_text().count("\n") <= 120
    example("s_curve").main([str(tmp_path / "s.png"), "--num-steps", "150", "--num-points", "1000"])
    found, floor = map(float, re.findall(r": +(0\.\d+)$", capsys.readouterr().out, re.MULTILINE))
    assert 0.5 * floor < found < 0.17  # a normal distribution: 0.22; one point: 0.59
    assert Image.open(tmp_path / "s.png").size == (2000, 440)


def test_sliced_wasserstein_is_the_mean_projection_of_a_shift():
    s_curve = example("s_curve")
    points = s_curve.s_curve(500, seed=0)
    assert s_curve.sliced_wasserstein(points, points.flip(0)) == 0
    shift = points.new_tensor([0.3, 0.4])  # length 0.5; the mean of |cos| over all directions is 2 / pi
    assert s_curve.sliced_wasserstein(points, points + shift) == pytest.approx(0.5 * 2 / 3.14159265, rel=1e-3)


def test_every_example_is_run_by_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    imported = {"sharded_checkpoints"}  # by train_sharded
    assert [path.stem for path in EXAMPLES.glob("*.py") if path.stem not in tests and path.stem not in imported] == []


def test_perceptual_loss_adds_weighted_lpips_of_the_latest_samples(tmp_path, monkeypatch):
    torch.manual_seed(0)
    weights = tmp_path / "alexnet.pth"
    layers = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    convolutions = {k: torch.nn.Conv2d(inputs, width, kernel) for k, (width, inputs, kernel) in layers.items()}
    torch.save({f"features.{k}.{n}": w for k, c in convolutions.items() for n, w in c.state_dict().items()}, weights)
    monkeypatch.setenv("RESTORE_DIFF_LPIPS_WEIGHTS", str(weights))
    example("perceptual_loss")
    schedule = NoiseSchedule(ScheduleConfig())
    clean, degraded, epsilon = torch.randn(3, 3, 3, 64, 64).clamp(-1, 1).unbind()
    t = torch.tensor([999, 3, 999])

    def loss(**settings):
        config = DiffusionConfig(prediction="clean", **settings)
        return GaussianDiffusion(schedule, config).loss(lambda *_: degraded, clean, degraded, t, epsilon)

    added = loss(loss="perceptual", options={"weight": 0.5}) - loss(loss="squared")
    distance = LPIPS("alex").distance(degraded, clean).flatten()
    torch.testing.assert_close(added, 0.5 * distance * torch.tensor([1, 0, 1]), atol=1e-4, rtol=1e-3)
