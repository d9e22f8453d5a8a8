"""Benchmarks run to the end at tiny size on the CPU, so that a GPU only fills in the numbers."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.labels import LABELS
from restore_diff.settings import SamplerConfig, ScheduleConfig

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


gpu = pytest.fixture(lambda load: load("gpu"), name="gpu")
recognition = pytest.fixture(lambda load: load("recognition"), name="recognition")
solvers = pytest.fixture(lambda load: load("solvers"), name="solvers")


def test_gpu_measures_every_part_and_writes_json_and_the_section(gpu, tmp_path):
    doc, out = tmp_path / "speed.md", tmp_path / "gpu.json"
    doc.write_text(f"# Speed\n\n{gpu.HEADING}\n\nold numbers\n\n## Later\n\nstays\n")
    parts = [part for part in gpu.PARTS if part != "tests"]  # pytest within pytest
    options = ["--networks", "base", "--precisions", "bfloat16", "--modes", "eager"]
    result = gpu.main(["--device", "cpu", "--tiny", "--only", *parts, *options, "--out", str(out), "--doc", str(doc)])
    assert json.loads(out.read_text()) == result
    rows = {part: len(result[part]) for part in parts}
    assert rows == {"peak": 1, "training": 1, "restoring": 2, "batches": 4, "sizes": 4, "peers": 1}
    assert not [row for part in parts for row in result[part] if "failed" in row]
    text = doc.read_text()
    assert "old numbers" not in text and text.endswith("\n## Later\n\nstays\n")
    assert text.count("| balanced | bfloat16 | eager |") == 1


@pytest.mark.long
def test_gpu_compiles_the_network_that_is_trained(gpu):
    args = ["--device", "cpu", "--tiny", "--only", "training", "--networks", "tiny", "--precisions", "float32"]
    (row,) = gpu.main([*args, "--modes", "compiled"])["training"]
    assert row["images_per_s"] > 0 and torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_gpu_keeps_the_other_rows_when_one_fails(gpu, monkeypatch):
    def measure(args, result, number):
        if number == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore")
        return {"seconds": 0.5}

    monkeypatch.setitem(gpu.PARTS, "peak", (lambda args: ({"number": k} for k in range(3)), measure))
    rows = gpu.main(["--device", "cpu", "--only", "peak"])["peak"]
    assert [row.get("seconds") for row in rows] == [0.5, None, 0.5]
    assert rows[1]["failed"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB"


def test_gpu_uses_tf32_as_the_peak_of_float32_on_cuda(gpu):
    result = {"peak": [{"precision": "float32", "tflop_per_s": 50.0}, {"precision": "tf32", "tflop_per_s": 400.0}]}
    assert gpu.share_of_peak(result, 1e14, "float32", torch.device("cuda")) == 0.25
    assert gpu.share_of_peak(result, 1e13, "float32", torch.device("cpu")) == 0.2
    assert gpu.share_of_peak({}, 1e13, "float32", torch.device("cpu")) is None


def test_calibration_error_is_the_gap_of_confidence_and_truth(recognition):
    truth = torch.tensor([[1.0], [0], [1], [0]])
    assert recognition.ece(torch.full((4, 1), 0.5), truth) == pytest.approx(0)
    assert recognition.ece(torch.full((4, 1), 0.9), truth) == pytest.approx(0.4)
    assert recognition.ece(truth, truth) == 0


def test_psnr_of_a_partial_none_lies_between_those_measured(recognition):
    psnr = {"unknown": 30.0, "none/2": 40.0, "none": 50.0, "rain": 20.0}
    hints = {0.25: 35.0, 0.5: 40.0, 0.75: 45.0, 1.0: 50.0}
    for share, expected in hints.items():
        assert recognition.psnr_at(psnr, torch.tensor([share, 0, 0, 0, 0]), LABELS) == pytest.approx(expected)
    assert recognition.psnr_at(psnr, torch.tensor([0.0, 1, 0, 0, 0]), LABELS) == 20
    assert recognition.psnr_at(psnr, torch.zeros(5), LABELS) == 30


def test_recognition_tables_count_every_photograph(recognition, tmp_path, capsys):
    sure, unsure = [-4.0, 4.0, -4.0, -4.0, -4.0], [-1.0, -1.0, -1.0, -1.0, -4.0]
    rows = [{"photograph": str(k), "weather": "rain", "rendered": False, "logits": sure} for k in range(4)]
    rows += [{"photograph": str(k), "weather": "snow", "rendered": False, "logits": unsure} for k in range(4, 7)]
    (tmp_path / "a.json").write_text(json.dumps({"labels": LABELS, "images": rows}))
    recognition.main(["--again", str(tmp_path / "a.json"), "--out", str(tmp_path / "b.json")])
    text = (tmp_path / "b.md").read_text()
    assert "| rain | 0 | 4 | 0 | 0 | 0 | 0 |" in text and "Cost of a label" not in text


def test_a_map_that_orders_as_the_error_has_no_sparsification_error(solvers):
    error = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    assert solvers.ause(error, error) == 0
    assert solvers.ause(2 * error.square() + 1, error) == 0
    chance = torch.rand(20_000, generator=torch.Generator().manual_seed(1))
    assert solvers.ause(chance, error) == pytest.approx(1, abs=0.05)
    assert solvers.ause(-error, error) > 1.5


def test_a_calibrated_deviation_has_ratio_one_and_covers_95_percent(solvers):
    random = torch.Generator().manual_seed(0)
    scale = 0.01 + 0.1 * torch.rand(3, 96, 96, generator=random)
    clean = torch.full((3, 96, 96), 0.5)
    samples = clean + scale * torch.randn(300, 3, 96, 96, generator=random)
    centre = clean + scale * torch.randn(3, 96, 96, generator=random)
    pair = solvers.Degraded("a", centre, clean, None)
    found = solvers.calibration([samples], [pair])
    assert found["ratio"] == pytest.approx(1, abs=0.05) and found["within"] == pytest.approx(0.954, abs=0.01)
    assert found["AUSE"] < 0.6 < found["AUSE of change"]
    assert all(one["error"] == pytest.approx(one["deviation"], rel=0.15) for one in found["bins"])


def test_the_renoised_sampler_estimates_twice_and_ends_at_the_named_level(solvers):
    schedule, levels = NoiseSchedule(ScheduleConfig()), []
    sampler = solvers.Renoised(schedule, "clean", SamplerConfig(num_steps=1), solvers.RenoisedSettings(noise=0.1))
    clean, noise = torch.full((1, 3, 8, 8), 0.4), torch.ones(1, 3, 8, 8)

    def predictor(x_t, t, degraded):
        levels.append(t.item())
        signal = schedule.signal(t, x_t)
        return clean if len(levels) == 1 else (x_t - signal * clean).mean() * torch.ones_like(x_t)

    found = sampler.sample(predictor, torch.zeros_like(clean), lambda draw: noise)
    assert levels[0] == 999 and 0.1 <= found.mean() < 0.11
    assert schedule.noise(torch.tensor([levels[1] - 1]), clean).item() < 0.1


def test_solvers_score_rendered_weather_with_its_label(solvers, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("RESTORE_DIFF_LPIPS_WEIGHTS", raising=False)
    (tmp_path / "photographs").mkdir()
    for number in range(2):
        levels = torch.rand(96, 80, 3, generator=torch.Generator().manual_seed(number)).mul(255).byte().numpy()
        Image.fromarray(levels).save(tmp_path / "photographs" / f"{number}.png")
    data = ["--data", str(tmp_path / "photographs"), "--set", "data.weather=rain", "--crop", "64", "--device", "cpu"]
    result = solvers.main(["--ckpt", "shipped", *data, "--only", "mirrored, ddim, 1 step"])
    lines = result["settings"]
    assert list(lines)[1:] == [f"mean of {k}, mirrored, ddim, 1 step" for k in (2, 4, 8)]
    assert [line.get("calls") for line in lines.values()] == [None, 2, 4, 8]
    assert set(result["maps"]) == {"mean of 8, mirrored, ddim, 1 step"}
