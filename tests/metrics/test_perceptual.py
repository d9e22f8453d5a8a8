"""LPIPS equals the lpips package; its weights are searched, checked, and never random."""

import hashlib
import math
import os
import warnings
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from restore_diff.metrics import perceptual
from restore_diff.metrics.perceptual import LPIPS, TRUNKS, MetricUnavailable, find_lpips_weights

REAL_WEIGHTS = os.environ.get("RESTORE_DIFF_LPIPS_WEIGHTS", "")
needs_weights = pytest.mark.skipif(not REAL_WEIGHTS, reason="needs AlexNet's weights in RESTORE_DIFF_LPIPS_WEIGHTS")


def random_trunk(net: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under torchvision's names, scaled so that no layer dies out."""
    with torch.device("meta"):
        package = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    generator = torch.Generator().manual_seed(seed)
    shapes = {name.split(".", 1)[1]: empty.shape for name, empty in package.net.state_dict().items()}
    return {
        f"features.{name}": torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
        for name, shape in shapes.items()
    }


def package_lpips(net: str, trunk: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """The package's own module as it builds itself, around a torchvision network that holds this trunk."""
    name = {"alex": "alexnet", "vgg": "vgg16"}[net]
    build = getattr(lpips.pretrained_networks.tv, name)

    def features_only(pretrained: bool) -> torch.nn.Module:
        with torch.device("meta"):
            network = build(weights=None)
        network.load_state_dict(trunk, strict=False, assign=True)
        return network

    monkeypatch.setattr(lpips.pretrained_networks.tv, name, features_only)
    return lpips.LPIPS(net=net, verbose=False)


@pytest.fixture(scope="module")
def trunk_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alex.safetensors"
    save_file(random_trunk("alex"), path)
    return path


@pytest.fixture
def no_weights(monkeypatch, tmp_path) -> Path:
    """A machine without any weights; torch's cache of checkpoints."""
    monkeypatch.delenv("RESTORE_DIFF_LPIPS_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def images(height: int = 64, width: int = 70, number: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(number, 3, height, width, generator=generator)
    return (clean + 0.2 * torch.randn(clean.shape, generator=generator)).clamp(0, 1), clean


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_equals_the_package_with_the_same_trunk(net, tmp_path, monkeypatch):
    trunk = random_trunk(net)
    save_file(trunk, tmp_path / "trunk.safetensors")
    pred, target = images()
    ours = LPIPS(net, tmp_path / "trunk.safetensors")(pred, target)
    theirs = package_lpips(net, trunk, monkeypatch)(pred, target, normalize=True).flatten()
    assert (ours - theirs).abs().max() <= 1e-6
    assert ours.shape == (2,) and ours.dtype == torch.float32 and ours.min() > 0.01


@needs_weights
def test_lpips_equals_the_package_with_the_real_trunk(monkeypatch, pair):
    trunk = perceptual._read_trunk(Path(REAL_WEIGHTS))
    pred, target = (torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in pair)
    theirs = package_lpips("alex", trunk, monkeypatch)(pred, target, normalize=True).item()
    assert LPIPS("alex")(pred, target).item() == pytest.approx(theirs, abs=1e-6)


@needs_weights
@pytest.mark.parametrize(("name", "published"), [("ex_p0", 0.722), ("ex_p1", 0.138)])
def test_example_images_have_the_published_distance(name, published):
    folder = Path(os.environ.get("RESTORE_DIFF_TEST_DATA", "")) / "lpips"
    if not (folder / "ex_ref.png").is_file():
        pytest.skip("needs lpips/ex_ref.png, ex_p0.png and ex_p1.png in RESTORE_DIFF_TEST_DATA")
    pred, target = (
        torch.from_numpy(np.array(Image.open(folder / f"{file}.png"))).permute(2, 0, 1)[None] / 255
        for file in (name, "ex_ref")
    )
    assert round(LPIPS("alex")(pred, target).item(), 3) == published


def test_a_whole_torchvision_checkpoint_is_accepted_and_hashed(tmp_path, trunk_file):
    torch.save(random_trunk("alex") | {"classifier.1.weight": torch.zeros(4, 4)}, tmp_path / "alexnet.pth")
    metric = LPIPS("alex", tmp_path / "alexnet.pth")
    assert torch.equal(metric(*images()), LPIPS("alex", trunk_file)(*images()))
    assert metric.label == "LPIPS(alex,v0.1)"
    assert metric.sha256 == hashlib.sha256((tmp_path / "alexnet.pth").read_bytes()).hexdigest()


def test_construction_prints_warns_and_draws_nothing(trunk_file, capsys):
    state = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LPIPS("alex", trunk_file)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")


def test_a_score_depends_on_its_own_pair_only(trunk_file, monkeypatch):
    metric, (pred, target) = LPIPS("alex", trunk_file), images(number=5)
    together = metric(pred, target)
    alone = torch.cat([metric(a[None], b[None]) for a, b in zip(pred, target, strict=True)])
    monkeypatch.setitem(TRUNKS, "alex", TRUNKS["alex"]._replace(pixels_per_chunk=2 * 64 * 70))
    for other in (alone, metric(pred, target)):
        assert torch.allclose(together, other, rtol=1e-5, atol=0)


def test_training_mode_autocast_and_gradients_have_no_effect(trunk_file):
    metric, (pred, target) = LPIPS("alex", trunk_file), images()
    plain = metric(pred, target)
    metric.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(metric(pred.requires_grad_(), target), plain)
    assert not any(parameter.requires_grad for parameter in metric.parameters())


@pytest.mark.gpu
def test_a_gpu_with_tf32_gives_the_same(trunk_file):
    metric, (pred, target) = LPIPS("alex", trunk_file), images()
    on_cpu = metric(pred, target)
    assert (metric(pred.cuda(), target.cuda()).cpu() - on_cpu).abs().max() <= 1e-5


def test_equal_images_score_0_small_ones_nan_other_shapes_are_rejected(trunk_file):
    metric, (pred, target) = LPIPS("alex", trunk_file), images()
    assert metric(pred, pred).tolist() == [0, 0]
    assert math.isnan(metric(pred[:1, :, :30], target[:1, :, :30]))
    assert metric(pred[:1, :, :31, :31], target[:1, :, :31, :31]).isfinite()
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        metric(torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_missing_weights_are_named_with_the_command_that_fetches_them(net, no_weights):
    with pytest.raises(MetricUnavailable) as caught:
        LPIPS(net)
    trunk = TRUNKS[net]
    sentence = f"{trunk.file_name} ({trunk.size}) is not on this disk."
    assert str(caught.value) == f"{sentence} Fetch it: restore-diff test --download"


def test_weights_are_searched_as_argument_then_environment_then_cache(no_weights, monkeypatch, trunk_file):
    no_weights.mkdir(parents=True)
    cached, other = no_weights / TRUNKS["alex"].file_name, no_weights / "other.pth"
    cached.touch()
    other.touch()
    assert find_lpips_weights("alex", download=True) == cached
    monkeypatch.setenv("RESTORE_DIFF_LPIPS_WEIGHTS", str(trunk_file))
    assert find_lpips_weights("alex") == trunk_file
    assert find_lpips_weights("alex", other) == other
    with pytest.raises(MetricUnavailable, match=r"no such file .*missing\.pth"):
        find_lpips_weights("alex", Path("missing.pth"), download=True)
    monkeypatch.setenv("RESTORE_DIFF_LPIPS_WEIGHTS", "gone.pth")
    with pytest.raises(MetricUnavailable, match=r"no such file .*gone\.pth"):
        find_lpips_weights("alex")


def test_weights_are_downloaded_only_on_request_with_a_hash_check(no_weights, monkeypatch):
    asked = []

    def download(url: str, **options: object) -> None:
        asked.append((url, options["check_hash"]))
        raise RuntimeError('invalid hash value (expected "7be5be79", got "00")')

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    with pytest.raises(MetricUnavailable, match="Fetch it: "):
        find_lpips_weights("alex")
    assert asked == []
    with pytest.raises(MetricUnavailable, match="invalid hash value"):
        find_lpips_weights("alex", download=True)
    assert asked == [("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", True)]


def test_a_checkpoint_that_contradicts_the_hash_in_its_name_is_rejected(tmp_path):
    path = tmp_path / TRUNKS["alex"].file_name
    torch.save(random_trunk("alex"), path)
    with pytest.raises(MetricUnavailable, match=r"damaged: its sha256 starts with [0-9a-f]{8}, not with 7be5be79"):
        LPIPS("alex", path)
    good = path.rename(tmp_path / f"alexnet-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    assert LPIPS("alex", good)(*images()).isfinite().all()


def test_a_file_without_the_trunk_is_rejected(tmp_path, trunk_file):
    with pytest.raises(MetricUnavailable, match="does not hold the vgg trunk"):
        LPIPS("vgg", trunk_file)
    incomplete = random_trunk("alex")
    del incomplete["features.10.bias"]
    save_file(incomplete, tmp_path / "incomplete.safetensors")
    with pytest.raises(MetricUnavailable, match=r"features\.10\.bias is missing"):
        LPIPS("alex", tmp_path / "incomplete.safetensors")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("<html>not found</html>")
        with pytest.raises(MetricUnavailable, match="cannot be read as weights"):
            LPIPS("alex", tmp_path / name)
