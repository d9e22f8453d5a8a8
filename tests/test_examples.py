"""Every example runs at a small size and does what its first lines promise."""

import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_s_curve_learns_its_distribution_and_draws_it(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert (EXAMPLES / "s_curve.py").read_text().count("\n") <= 120
    example("s_curve").main([str(tmp_path / "s.png"), "--num-steps", "400", "--num-points", "1000"])
    found, floor = map(float, re.findall(r": +(0\.\d+)$", capsys.readouterr().out, re.MULTILINE))
    assert 0.5 * floor < found < 0.15  # a normal distribution: 0.22; one point: 0.59
    assert Image.open(tmp_path / "s.png").size == (2000, 440)


def test_sliced_wasserstein_is_the_mean_projection_of_a_shift():
    s_curve = example("s_curve")
    points = s_curve.s_curve(500, seed=0)
    assert s_curve.sliced_wasserstein(points, points.flip(0)) == 0
    shift = points.new_tensor([0.3, 0.4])  # length 0.5; the mean of |cos| over all directions is 2 / pi
    assert s_curve.sliced_wasserstein(points, points + shift) == pytest.approx(0.5 * 2 / 3.14159265, rel=1e-3)
