"""FID and KID through torchmetrics, with a small network in Inception's place, whose weights no test can count on."""

import sys
from types import SimpleNamespace

import pytest
import torch

from restore_diff.metrics import distribution
from restore_diff.metrics.distribution import WEIGHTS, InceptionDistance
from restore_diff.metrics.perceptual import MetricUnavailable

fid_module = pytest.importorskip("torchmetrics.image.fid")


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
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace(__version__="0.4.0"))
    monkeypatch.setattr(fid_module, "NoTrainInceptionV3", Colours)
    monkeypatch.setattr(distribution._Given, "num_features", 6)
    monkeypatch.setattr(distribution, "cached_weights", lambda *args, **options: tmp_path / "weights.pth")
    (tmp_path / "weights.pth").touch()
    return InceptionDistance()


def test_equal_sets_have_no_distance_in_any_order(metric):
    images = photographs(12, seed=0)
    distances = metric(images, images[::-1])
    assert distances.fid == pytest.approx(0, abs=1e-6)
    assert -0.1 < distances.kid < 0  # each image meets itself between the sets, never within one


def test_fid_is_the_squared_distance_of_the_means_for_equal_spreads(metric):
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


def test_kid_is_unbiased_where_fid_is_not(metric):
    """Sets of one distribution: FID stays above 0 for few images; KID is below 0 as often as above."""
    pairs = [(photographs(10, 2 * seed), photographs(10, 2 * seed + 1)) for seed in range(12)]
    distances = [metric(pred, target) for pred, target in pairs]
    assert all(found.fid > 1e-4 for found in distances)
    assert 2 <= sum(found.kid < 0 for found in distances) <= 10
    assert metric(photographs(10, 1, brightness=0.8), photographs(10, 2)).kid > max(found.kid for found in distances)


def test_any_size_goes_through_and_is_resized_as_tensorflow_does(metric):
    images = photographs(3, seed=0)
    assert metric([image[:, :4] for image in images], [image.repeat(1, 2, 2) for image in images]).fid >= 0
    assert metric.inception.settings["antialias"] is False
    assert metric.inception.settings["features_list"] == ["2048"]


def test_subsets_are_the_same_each_time_and_leave_the_global_generator_alone(metric, monkeypatch):
    monkeypatch.setattr(distribution, "SUBSET_SIZE", 5)
    pred, target = photographs(9, seed=0), photographs(9, seed=1)
    state = torch.random.get_rng_state()
    first = metric(pred, target)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(7)
    assert metric(pred, target) == first
    assert first.kid_std > 0


def test_one_image_is_not_enough(metric):
    with pytest.raises(MetricUnavailable, match="two images or more on both sides, got 1"):
        metric(photographs(1, seed=0), photographs(3, seed=1))


def test_without_torch_fidelity_or_weights_one_line_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(MetricUnavailable, match=r"torch_fidelity.*pip install restore_diff\[fid\]"):
        InceptionDistance()
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace(__version__="0.4.0"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MetricUnavailable, match=r"put weights-inception-.*\.pth .* or pass --download") as caught:
        InceptionDistance()
    assert WEIGHTS in str(caught.value) and "\n" not in str(caught.value)
