"""No-reference metrics of pyiqa, and their report on a folder. A stand-in replaces pyiqa, which is optional."""

import csv
import json
import math
import socket
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from restore_diff.data.names import DataError
from restore_diff.evaluation.folders import no_reference_table, score_images, write_no_reference
from restore_diff.metrics.distribution import NoReference
from restore_diff.metrics.perceptual import MetricUnavailable

CPU = torch.device("cpu")


class Brightness:
    """Metric with pyiqa's interface: (1, 3, H, W) in [0, 1] -> tensor."""

    def __init__(self, lower_better: bool = True) -> None:
        self.lower_better = lower_better

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        assert images.ndim == 4 and images.shape[:2] == (1, 3), images.shape
        assert images.is_floating_point() and images.min() >= 0 and images.max() <= 1
        if images.shape[-1] < 8:
            raise ValueError("too small")
        return images.mean(dim=(1, 2, 3))


def create_metric(name: str, device: torch.device) -> Brightness:
    if name == "musiq":
        raise ConnectionError("no route to huggingface.co\nand more")
    return Brightness(lower_better=name == "niqe")


def install(monkeypatch, create) -> None:
    names = ["brisque", "musiq", "niqe"]
    module = SimpleNamespace(__version__="0.1.16", list_models=lambda metric_mode: names, create_metric=create)
    monkeypatch.setitem(sys.modules, "pyiqa", module)


@pytest.fixture
def stand_in(monkeypatch):
    install(monkeypatch, create_metric)


@pytest.fixture
def folder(stand_in, tmp_path):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number, (name, width) in enumerate((("b.png", 12), ("a.jpg", 12), ("tiny.png", 7))):
        Image.new("RGB", (width, 10), (51 * number,) * 3).save(photographs / name)
    return photographs


def test_images_are_scored_in_unit_range_by_metric_name(stand_in):
    metric = NoReference(["niqe", "brisque"])
    scores = metric(torch.full((3, 10, 12), 51, dtype=torch.uint8))
    assert scores == {"niqe": pytest.approx(0.2), "brisque": pytest.approx(0.2)}
    assert metric.lower_is_better == {"niqe": True, "brisque": False}
    assert (metric.version, metric.not_computed) == ("0.1.16", {})


def test_a_metric_without_weights_does_not_stop_the_others(stand_in):
    metric = NoReference(["musiq", "niqe"])
    assert metric.not_computed == {"musiq": "ConnectionError: no route to huggingface.co"}
    assert list(metric(torch.zeros(3, 10, 12, dtype=torch.uint8))) == ["niqe"]
    with pytest.raises(MetricUnavailable, match=r"musiq not computed: ConnectionError"):
        NoReference(["musiq"])


def test_an_unknown_name_is_rejected_with_the_known_names(stand_in):
    with pytest.raises(MetricUnavailable, match=r"nique: not among .* brisque, musiq, niqe"):
        NoReference(["niqe", "nique"])


def test_an_image_too_small_for_a_metric_has_no_score(stand_in, caplog):
    assert math.isnan(NoReference(["niqe"])(torch.zeros(3, 10, 7, dtype=torch.uint8))["niqe"])
    assert "niqe of an image of 7x10: too small" in caplog.text


def test_nothing_is_downloaded_unless_requested(monkeypatch):
    """Neither while metrics are made nor while they score, by any library that uses Python's sockets."""
    reached = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()

        def fetch():
            try:
                urllib.request.urlopen(f"http://{host}:{port}/weights.pth", timeout=0.1)
            except urllib.error.URLError as error:  # as requests and huggingface_hub do, wrapped
                raise RuntimeError(str(error)) from error
            except TimeoutError:  # connected, no answer
                reached.append(True)

        class Lazy(Brightness):
            def __call__(self, images):
                fetch()
                return super().__call__(images)

        def create(name, device):
            if name == "musiq":
                fetch()
            return Lazy()

        install(monkeypatch, create)
        metric = NoReference(["musiq", "niqe"])
        assert "nothing is downloaded without --download" in metric.not_computed["musiq"]
        assert math.isnan(metric(torch.zeros(3, 10, 12, dtype=torch.uint8))["niqe"]) and not reached
        metric = NoReference(["musiq", "niqe"], download=True)
        assert metric.not_computed == {} and reached == [True]
        metric(torch.zeros(3, 10, 12, dtype=torch.uint8))
        assert len(reached) == 3
        socket.create_connection((host, port), timeout=1).close()  # allowed after the block


def test_a_folder_gives_one_row_per_image(folder):
    rows, _ = score_images(folder, ["niqe"], CPU)
    assert [(row.name, row.width, row.height, row.flags) for row in rows] == [
        ("a", 12, 10, ()),
        ("b", 12, 10, ()),
        ("tiny", 7, 10, ("small",)),
    ]
    assert [row.scores["niqe"] for row in rows[:2]] == pytest.approx([0.2, 0], abs=1e-3)


def test_the_report_of_a_folder_names_tool_licence_and_missing_metrics(folder, tmp_path):
    rows, metric = score_images(folder, ["niqe", "musiq"], CPU)
    write_no_reference(tmp_path / "out", rows, metric)
    found = json.loads((tmp_path / "out" / "no_reference.json").read_text())
    assert found["tool"] == "pyiqa 0.1.16" and "PolyForm Noncommercial" in found["licence"]
    assert found["n"] == 3 and found["lower_is_better"] == {"niqe": True}
    assert found["summary"]["niqe"]["mean"] == pytest.approx(0.1, abs=1e-3)
    assert found["summary"]["niqe"]["n_nonfinite"] == 1
    assert found["not_computed"] == {"musiq": "ConnectionError: no route to huggingface.co"}
    with (tmp_path / "out" / "no_reference.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["a", "b", "tiny"]
    lines = no_reference_table(rows, metric).splitlines()
    assert lines[0].startswith("3 images without ground truth, by pyiqa 0.1.16 (PolyForm Noncommercial")
    assert lines[1].startswith("  niqe  0.1") and lines[1].endswith("(95% CI, n=2), lower is better")
    assert lines[2] == "  musiq not computed: ConnectionError: no route to huggingface.co"


def test_a_folder_without_images_is_rejected(stand_in, tmp_path):
    with pytest.raises(DataError, match="0 images"):
        score_images(tmp_path, ["niqe"], CPU)
