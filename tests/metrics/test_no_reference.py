"""No-reference metrics: pyiqa is optional, is told about where it is missing, and is given what it expects.

A stand-in takes pyiqa's place: its metrics, their weights and its licence are not for tests to depend on.
"""

import math
import socket
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
import torch

from restore_diff.metrics.distribution import NoReference
from restore_diff.metrics.perceptual import MetricUnavailable


class Metric:
    """Of pyiqa's form: an image (1, 3, H, W) in [0, 1] goes in, a tensor comes out."""

    def __init__(self, lower_better: bool) -> None:
        self.lower_better = lower_better

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        assert images.ndim == 4 and images.shape[:2] == (1, 3), images.shape
        assert images.is_floating_point() and images.min() >= 0 and images.max() <= 1
        if images.shape[-1] < 8:
            raise ValueError("too small")
        return images.mean(dim=(1, 2, 3))


def create_metric(name: str, device: torch.device) -> Metric:
    if name == "musiq":
        raise ConnectionError("no route to huggingface.co\nand more")
    return Metric(lower_better=name == "niqe")


@pytest.fixture
def stand_in(monkeypatch):
    names = ["brisque", "musiq", "niqe"]
    module = SimpleNamespace(__version__="0.1.16", list_models=lambda metric_mode: names, create_metric=create_metric)
    monkeypatch.setitem(sys.modules, "pyiqa", module)


def test_without_pyiqa_one_line_says_what_to_install_and_under_which_licence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(MetricUnavailable) as caught:
        NoReference(["niqe"])
    message = str(caught.value)
    assert "pip install restore_diff[iqa]" in message and "PolyForm Noncommercial" in message and "S-Lab" in message
    assert "\n" not in message


def test_images_are_scored_in_unit_range_each_metric_by_its_name(stand_in):
    metric = NoReference(["niqe", "brisque"])
    scores = metric(torch.full((3, 10, 12), 51, dtype=torch.uint8))
    assert scores == {"niqe": pytest.approx(0.2), "brisque": pytest.approx(0.2)}
    assert metric.lower_is_better == {"niqe": True, "brisque": False}
    assert (metric.version, metric.not_computed) == ("0.1.16", {})


def test_a_metric_without_weights_is_not_computed_and_the_others_are(stand_in):
    metric = NoReference(["musiq", "niqe"])
    assert metric.not_computed == {"musiq": "ConnectionError: no route to huggingface.co"}
    assert list(metric(torch.zeros(3, 10, 12, dtype=torch.uint8))) == ["niqe"]
    with pytest.raises(MetricUnavailable, match=r"musiq not computed: ConnectionError"):
        NoReference(["musiq"])


def test_a_name_that_pyiqa_does_not_know_is_refused_with_the_known_ones(stand_in):
    with pytest.raises(MetricUnavailable, match=r"nique: not among .* brisque, musiq, niqe"):
        NoReference(["niqe", "nique"])


def test_an_image_that_a_metric_cannot_take_has_no_score(stand_in, caplog):
    assert math.isnan(NoReference(["niqe"])(torch.zeros(3, 10, 7, dtype=torch.uint8))["niqe"])
    assert "niqe of an image of 7x10: too small" in caplog.text


def test_nothing_is_fetched_unless_that_is_asked_for(monkeypatch):
    """By any library that uses Python's sockets, while metrics are made and while they score."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        reached = []

        def fetch():
            try:
                urllib.request.urlopen(f"http://{host}:{port}/weights.pth", timeout=0.1)
            except urllib.error.URLError as error:  # as requests and huggingface_hub do, wrapped
                raise ConnectionError(str(error)) from error
            except TimeoutError:  # connected; nobody answers
                reached.append(True)

        class Lazy(Metric):
            def __call__(self, images):
                try:
                    fetch()
                except ConnectionError as error:
                    raise RuntimeError(str(error)) from error
                return super().__call__(images)

        def create_metric(name, device):
            if name == "musiq":
                fetch()
            return Lazy(lower_better=True)

        names = ["musiq", "niqe"]
        module = SimpleNamespace(__version__="1", list_models=lambda metric_mode: names, create_metric=create_metric)
        monkeypatch.setitem(sys.modules, "pyiqa", module)
        metric = NoReference(names)
        assert "nothing is downloaded without --download" in metric.not_computed["musiq"]
        assert math.isnan(metric(torch.zeros(3, 10, 12, dtype=torch.uint8))["niqe"]) and not reached
        metric = NoReference(names, download=True)
        assert metric.not_computed == {} and reached == [True]
        metric(torch.zeros(3, 10, 12, dtype=torch.uint8))
        assert len(reached) == 3
        socket.create_connection((host, port), timeout=1).close()  # the block is over
