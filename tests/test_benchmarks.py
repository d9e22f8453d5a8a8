"""Benchmarks run to the end at tiny size on the CPU, so that a GPU only fills in the numbers."""

import importlib
import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


def test_gpu_measures_every_part_and_writes_json_and_the_section(gpu, tmp_path):
    doc, out = tmp_path / "speed.md", tmp_path / "gpu.json"
    doc.write_text(f"# Speed\n\n{gpu.HEADING}\n\nold numbers\n\n## Later\n\nstays\n")
    parts = [part for part in gpu.PARTS if part != "tests"]  # pytest within pytest
    options = [
        "--networks",
        "base",
        "--precisions",
        "bfloat16",
        "--modes",
        "eager",
        "--out",
        str(out),
        "--doc",
        str(doc),
    ]
    result = gpu.main(["--device", "cpu", "--tiny", "--only", *parts, *options])
    assert json.loads(out.read_text()) == result
    rows = {part: len(result[part]) for part in parts}
    assert rows == {"peak": 1, "training": 1, "restoring": 3, "batches": 4, "sizes": 4, "peers": 1}
    assert not [row for part in parts for row in result[part] if "failed" in row]
    text = doc.read_text()
    assert "old numbers" not in text and text.endswith("\n## Later\n\nstays\n")
    assert text.count("| balanced | bfloat16 | eager |") == 1


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
