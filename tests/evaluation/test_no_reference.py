"""A folder of images without ground truth, scored by what stands in pyiqa's place."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from restore_diff.data.names import DataError
from restore_diff.evaluation.folders import no_reference_table, score_images, write_no_reference

CPU = torch.device("cpu")


class Brightness:
    lower_better = True

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] < 8:
            raise ValueError("too small")
        return 255 * images.mean()


def create_metric(name: str, device: torch.device) -> Brightness:
    if name == "musiq":
        raise OSError("no weights")
    return Brightness()


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    names = ["musiq", "niqe"]
    module = SimpleNamespace(__version__="0.1.16", list_models=lambda metric_mode: names, create_metric=create_metric)
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number, (name, width) in enumerate((("b.png", 12), ("a.jpg", 12), ("tiny.png", 7))):
        Image.new("RGB", (width, 10), (40 * number,) * 3).save(photographs / name)
    return photographs


def test_each_image_has_a_row_and_one_that_is_too_small_no_score(folder):
    rows, _ = score_images(folder, ["niqe"], CPU)
    assert [(row.name, row.width, row.height, row.flags) for row in rows] == [
        ("a", 12, 10, ()),
        ("b", 12, 10, ()),
        ("tiny", 7, 10, ("small",)),
    ]
    assert [row.scores["niqe"] for row in rows[:2]] == pytest.approx([40, 0], abs=0.1)


def test_the_files_name_tool_version_licence_and_what_was_not_computed(folder, tmp_path):
    rows, metric = score_images(folder, ["niqe", "musiq"], CPU)
    write_no_reference(tmp_path / "out", rows, metric)
    found = json.loads((tmp_path / "out" / "no_reference.json").read_text())
    assert found["tool"] == "pyiqa 0.1.16" and "PolyForm Noncommercial" in found["licence"]
    assert found["n"] == 3 and found["lower_is_better"] == {"niqe": True}
    assert found["summary"]["niqe"]["mean"] == pytest.approx(20, abs=0.1)
    assert found["summary"]["niqe"]["n_nonfinite"] == 1
    assert found["not_computed"] == {"musiq": "OSError: no weights"}
    with (tmp_path / "out" / "no_reference.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["a", "b", "tiny"]


def test_the_table_says_which_way_is_better_and_what_was_not_computed(folder):
    lines = no_reference_table(*score_images(folder, ["niqe", "musiq"], CPU)).splitlines()
    assert lines[0].startswith("3 images without ground truth, by pyiqa 0.1.16 (PolyForm Noncommercial")
    assert lines[1].startswith("  niqe  20.") and lines[1].endswith("(95% CI, n=2), lower is better")
    assert lines[2] == "  musiq not computed: OSError: no weights"


def test_a_folder_without_images_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="0 images"):
        score_images(tmp_path / "empty", ["niqe"], CPU)
