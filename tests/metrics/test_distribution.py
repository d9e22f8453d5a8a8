"""Metrics without a clean reference, and their reports. Stand-ins replace Inception and pyiqa, which is optional."""

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
from restore_diff.evaluation import folders
from restore_diff.evaluation.folders import (
    no_reference_table,
    pair_folders,
    score_distributions,
    score_images,
    write_no_reference,
)
from restore_diff.metrics import distribution
from restore_diff.metrics.distribution import Distances, InceptionDistance, NoReference
from restore_diff.metrics.perceptual import MetricUnavailable


class Colours(torch.nn.Module):
    """Six features: the mean and the spread of each colour."""

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8 and images.ndim == 4
        values = images.double() / 255
        return torch.cat([values.mean(dim=(2, 3)), values.std(dim=(2, 3))], dim=1).float()


def photographs(number: int, seed: int, brightness: float = 0.5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    levels = brightness + 0.1 * torch.randn(number, 3, 1, 1, generator=generator)
    noise = 0.1 * torch.rand(number, 3, 6, 7, generator=generator)
    return list(((levels + noise).clamp(0, 1) * 255).to(torch.uint8))


@pytest.fixture
def metric(monkeypatch, tmp_path) -> InceptionDistance:
    fid_module = pytest.importorskip("torchmetrics.image.fid")
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace(__version__="0.4.0"))
    monkeypatch.setattr(fid_module, "NoTrainInceptionV3", Colours)
    monkeypatch.setattr(distribution._Given, "num_features", 6)
    monkeypatch.setattr(distribution, "cached_weights", lambda *args, **options: tmp_path / "weights.pth")
    (tmp_path / "weights.pth").touch()
    return InceptionDistance()


def test_equal_sets_have_distance_0_in_any_order(metric):
    images = photographs(12, seed=0)
    distances = metric(images, images[::-1])
    assert distances.fid == pytest.approx(0, abs=1e-6)
    assert -0.1 < distances.kid < 0  # each image is compared with itself between the sets only


def test_fid_is_the_squared_distance_of_means_for_equal_covariances(metric):
    """Every image shifted by 10 levels in all colours: (3 x (10 / 255)^2), the covariances being equal."""
    images = [image.clamp(20, 200) for image in photographs(12, seed=0)]
    shifted = [image + 10 for image in images]
    assert metric(shifted, images).fid == pytest.approx(3 * (10 / 255) ** 2, rel=1e-3)


def test_kid_is_the_unbiased_estimate_of_the_kernel_distance(metric):
    """Binkowski et al. (2018), section 4: k(x, y) = (x.y / d + 1)^3, without the pairs of an image and itself."""
    pred, target = photographs(9, seed=0), photographs(9, seed=1, brightness=0.6)
    x, y = (torch.cat([metric.inception(image[None]) for image in images]).double() for images in (pred, target))
    within = [((a @ a.T / 6 + 1) ** 3).fill_diagonal_(0).sum() / (9 * 8) for a in (x, y)]
    expected = sum(within) - 2 * ((x @ y.T / 6 + 1) ** 3).mean()
    assert metric(pred, target).kid == pytest.approx(expected.item(), rel=1e-3)


def test_any_size_is_accepted_and_resized_as_in_tensorflow(metric):
    images = photographs(3, seed=0)
    assert metric([image[:, :4] for image in images], [image.repeat(1, 2, 2) for image in images]).fid >= 0
    assert metric.inception.settings["antialias"] is False
    assert metric.inception.settings["features_list"] == ["2048"]


def test_subsets_are_fixed_and_the_global_generator_is_unchanged(metric, monkeypatch):
    monkeypatch.setattr(distribution, "SUBSET_SIZE", 5)
    pred, target = photographs(9, seed=0), photographs(9, seed=1)
    state = torch.random.get_rng_state()
    first = metric(pred, target)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(7)
    assert metric(pred, target) == first
    assert first.kid_std > 0


def test_one_image_is_rejected(metric):
    with pytest.raises(MetricUnavailable, match="two images or more on both sides, got 1"):
        metric(photographs(1, seed=0), photographs(3, seed=1))


def test_missing_packages_or_weights_are_named_with_the_remedy(monkeypatch, tmp_path):
    pytest.importorskip("torchmetrics")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(MetricUnavailable, match=r"torch_fidelity.*pip install restore_diff\[fid\]"):
        InceptionDistance()
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace(__version__="0.4.0"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MetricUnavailable, match=r"weights-inception-.*\.pth \(91 MB\) .*--fid --download$"):
        InceptionDistance()


class Sums:
    """Stand-in for InceptionDistance: the sums of the first and of the second set as distances."""

    tool = "torchmetrics 1.9.0, torch-fidelity 0.4.0"

    def __init__(self, device: torch.device, *, download: bool) -> None:
        pass

    def __call__(self, pred, target) -> Distances:
        return Distances(*(float(sum(image[0, 0, 0].item() for image in images)) for images in (pred, target)), 0.5)


@pytest.fixture
def pairs(tmp_path):
    for side, level in (("pred", 1), ("target", 10)):
        (tmp_path / side).mkdir()
        for number in range(3):
            Image.new("RGB", (12, 12), (level * (number + 1),) * 3).save(tmp_path / side / f"{number}.png")
    return pair_folders(tmp_path / "pred", tmp_path / "target")


def test_fid_of_few_images_is_reported_with_a_warning(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "InceptionDistance", Sums)
    lines = score_distributions(pairs, tmp_path / "out", torch.device("cpu"))
    assert lines[0].startswith("FID 6.000, KID 60.00000 ± 0.50000 (n=3, torchmetrics 1.9.0")
    assert lines[1] == "warning: FID of 3 images (fewer than 2,048) is biased upwards; use KID"
    found = json.loads((tmp_path / "out" / "distribution.json").read_text())
    assert (found["status"], found["fid"], found["kid"], found["n"]) == ("computed", 6, 60, 3)
    assert "without antialiasing" in found["resize"] and found["tool"] == Sums.tool
    monkeypatch.setattr(folders, "MIN_IMAGES", 3)
    assert len(score_distributions(pairs, tmp_path / "out", torch.device("cpu"))) == 1


# No-reference metrics of pyiqa.

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
