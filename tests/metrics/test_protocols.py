"""PSNR and SSIM against independent implementations; input validation; named protocols and their golden values."""

import dataclasses
import hashlib
import math
import os
from pathlib import Path
from typing import Any

import kornia
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.nn import functional as F

from restore_diff.metrics import protocols
from restore_diff.metrics.protocols import PROTOCOLS, Protocol, rgb_to_y, select_protocols, to_levels


def psnr(pred: torch.Tensor, target: torch.Tensor, **settings: Any) -> torch.Tensor:
    return Protocol(**{"name": "", "reproduces": "", "channel": "rgb"} | settings).psnr(pred, target)


def ssim(pred: torch.Tensor, target: torch.Tensor, **settings: Any) -> torch.Tensor:
    return Protocol(**{"name": "", "reproduces": "", "channel": "rgb"} | settings).ssim(pred, target)


SSIM_OF_2003: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
FULL_LUMA: dict[str, Any] = {"channel": "y", "y_range": "full", "round_y": True}


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def studio_luma(image: np.ndarray) -> np.ndarray:
    """rgb2ycbcr of a uint8 image as MATLAB does it, in whole numbers: 16 + num / 255000, half up."""
    red, green, blue = (image[..., channel].astype(np.int64) for channel in range(3))
    numerator = 65481 * red + 128553 * green + 24966 * blue
    return 16 + (2 * numerator + 255000) // 510000


def test_psnr_equals_scikit_image(pair):
    ours = psnr(*map(as_batch, pair)).item()
    assert ours == pytest.approx(peak_signal_noise_ratio(pair[1], pair[0], data_range=255), abs=1e-9)


@pytest.mark.parametrize(("ours", "theirs"), [({}, SSIM_OF_2003), ({"window": "uniform7", "covariance": "sample"}, {})])
def test_ssim_equals_scikit_image(pair, ours, theirs):
    expected = structural_similarity(*pair, channel_axis=2, data_range=255, **theirs)
    assert ssim(*map(as_batch, pair), **ours).item() == pytest.approx(expected, abs=1e-10)


def test_ssim_equals_kornia_in_float64(pair):
    x, y = (as_batch(image).double() for image in pair)
    theirs = kornia.metrics.ssim(x, y, 11, 255.0, padding="valid").mean().item()
    assert ssim(*map(as_batch, pair)).item() == pytest.approx(theirs, abs=1e-10)


def gaussian_ssim_by_convolution(x: torch.Tensor, y: torch.Tensor, padding: int) -> float:
    """SSIM in [0, 1] by a two-dimensional 11 x 11 window and a convolution, as the PyTorch codes of papers do."""
    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / 4.5)
    window = (taps.outer(taps) / taps.sum() ** 2).expand(x.shape[1], 1, 11, 11)

    def mean(images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images, window, padding=padding, groups=x.shape[1])

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    return (similarity / ((mean_x**2 + mean_y**2 + 1e-4) * (variance_x + variance_y + 9e-4))).mean().item()


def test_zero_padding_equals_ffa_net(pair):
    x, y = (as_batch(image).double() / 255 for image in pair)
    ours = ssim(*map(as_batch, pair), padding="zero").item()
    assert ours == pytest.approx(gaussian_ssim_by_convolution(x, y, padding=5), abs=1e-10)
    assert abs(ours - ssim(*map(as_batch, pair)).item()) > 1e-3


@pytest.mark.parametrize(("height", "width", "pooled"), [(390, 700, (195, 350)), (300, 641, (300, 641))])
def test_pooling_equals_dehazeformer(height, width, pooled):
    generator = torch.Generator().manual_seed(0)
    x = F.interpolate(torch.rand(1, 1, 40, 60, generator=generator, dtype=torch.float64), (height, width))
    y = (x + 0.1 * torch.rand(x.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    theirs = gaussian_ssim_by_convolution(F.adaptive_avg_pool2d(x, pooled), F.adaptive_avg_pool2d(y, pooled), 0)
    assert ssim(x, y, quantize=False, pool="avg256").item() == pytest.approx(theirs, abs=1e-10)


def test_full_range_luma_equals_opencv(pair):
    """cv2.cvtColor(RGB2YCrCb) in its fixed-point arithmetic, then scikit-image's default SSIM and PSNR."""
    weights = np.array([4899, 9617, 1868])
    luma = [(image.astype(np.int64) @ weights + 8192 >> 14).astype(np.uint8) for image in pair]
    ours = ssim(*map(as_batch, pair), window="uniform7", covariance="sample", **FULL_LUMA).item()
    assert ours == pytest.approx(structural_similarity(*luma, data_range=255), abs=5e-5)
    theirs = peak_signal_noise_ratio(luma[1], luma[0], data_range=255)
    # The rounding of OpenCV differs on a few pixels.
    assert psnr(*map(as_batch, pair), **FULL_LUMA).item() == pytest.approx(theirs, abs=1e-3)


def test_rounded_luma_is_exact_for_every_colour():
    for red in range(0, 256, 16):
        grid = np.stack(np.meshgrid(np.arange(red, red + 16), np.arange(256), np.arange(256), indexing="ij"), -1)
        image = grid.reshape(1024, 1024, 3).astype(np.uint8)
        ours = rgb_to_y(to_levels(as_batch(image)), round_y=True)[0, 0].numpy()
        assert (ours == studio_luma(image)).all()


def test_luma_metrics_equal_those_of_integer_luma(pair):
    luma = [studio_luma(image).astype(np.uint8) for image in pair]
    theirs = structural_similarity(*luma, data_range=255, **SSIM_OF_2003)
    assert ssim(*map(as_batch, pair), channel="y", round_y=True).item() == pytest.approx(theirs, abs=1e-10)
    theirs = peak_signal_noise_ratio(luma[1], luma[0], data_range=255)
    assert psnr(*map(as_batch, pair), channel="y", round_y=True).item() == pytest.approx(theirs, abs=1e-9)
    grey = [as_batch(image)[:, :1] for image in pair]
    assert psnr(*grey, channel="y") == psnr(*grey)  # a single channel is scored unchanged


def test_scores_do_not_depend_on_the_batch(pair):
    x, y = map(as_batch, pair)
    xs, ys = torch.cat([x, y.flip(-1), x.flip(-2)]), torch.cat([y, x.flip(-1), x])
    for metric in (psnr, ssim):
        alone = torch.cat([metric(a[None], b[None]) for a, b in zip(xs, ys, strict=True)])
        assert (metric(xs, ys) - alone).abs().max() <= 1e-12
        assert alone.dtype == torch.float64 and alone.unique().numel() > 1


def test_floats_are_clamped_and_rounded_by_default():
    levels = to_levels(torch.tensor([-0.1, 0.5 / 255, 0.49 / 255, 100.2 / 255, 1.2]).reshape(1, 1, 1, 5))
    assert levels.flatten().tolist() == [0, 1, 0, 100, 255]
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 1, 256)
    assert (to_levels(every / 255) == every).all()
    unrounded = to_levels(torch.full((1, 1, 1, 1), 100.2 / 255, dtype=torch.float64), quantize=False)
    assert unrounded.item() == pytest.approx(100.2, abs=1e-12)


def test_crop_border_removes_the_border(pair):
    x, y = map(as_batch, pair)
    damaged = x.clone()
    damaged[..., :4] = 0
    damaged[..., -4:, :] = 255
    for metric in (psnr, ssim):
        assert metric(damaged, y, crop_border=4) == metric(x[..., 4:-4, 4:-4], y[..., 4:-4, 4:-4])


def test_identical_images_are_perfect(pair):
    x = as_batch(pair[0])
    assert psnr(x, x).item() == math.inf
    assert ssim(x, x).item() == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nonfinite_pixel_makes_only_its_own_image_nan(pair, bad):
    x, y = (as_batch(image).repeat(2, 1, 1, 1) / 255 for image in pair)
    x[0, 1, 45, 60] = bad
    for metric in (psnr, ssim):
        assert metric(x, y).isnan().tolist() == [True, False]


def test_images_smaller_than_the_window_have_no_ssim(pair):
    x, y = map(as_batch, pair)
    assert ssim(x[..., :10], y[..., :10]).isnan()
    assert ssim(x[..., :18], y[..., :18], crop_border=4).isnan()
    assert ssim(x[..., :11], y[..., :11]).isfinite()
    assert psnr(x[..., :1, :1], y[..., :1, :1]).isfinite()
    assert psnr(x[..., :7], y[..., :7], crop_border=4).isnan()


def test_the_number_of_threads_is_restored(pair):
    x, y = map(as_batch, pair)
    try:
        torch.set_num_threads(2)
        assert psnr(x, y).isfinite() and ssim(x, y).isfinite()
        with pytest.raises(ValueError):
            psnr(x, y[..., 1:])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_autocast_has_no_effect(pair):
    x, y = (as_batch(image).float() / 255 for image in pair)
    plain = psnr(x, y), ssim(x, y, pool="avg256")
    with torch.autocast("cpu", torch.bfloat16):
        assert (psnr(x, y), ssim(x, y, pool="avg256")) == plain


@pytest.mark.gpu
def test_a_gpu_with_tf32_and_autocast_gives_the_same(pair, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    x, y = map(as_batch, pair)
    with torch.autocast("cuda", torch.float16):
        for metric in (psnr, ssim):
            assert metric(x.cuda(), y.cuda()).item() == pytest.approx(metric(x, y).item(), abs=1e-9)


def test_float32_arithmetic_as_on_mps_is_close(pair):
    x, y = (to_levels(as_batch(image)) for image in pair)
    taps = protocols.TAPS["gauss11"]
    exact = protocols._ssim_map(x, y, taps, "population").mean().item()
    assert protocols._ssim_map(x.float(), y.float(), taps, "population").mean().item() == pytest.approx(exact, abs=2e-5)


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (3, 32, 32), (1, 4, 32, 32)])
def test_other_layouts_are_rejected(shape):
    with pytest.raises(ValueError, match="height, width"):
        psnr(torch.zeros(shape), torch.zeros(shape))


def test_unequal_sizes_and_integer_types_are_rejected():
    with pytest.raises(ValueError, match=r"same shape, got \(1, 3, 16, 16\)"):
        ssim(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))
    with pytest.raises(TypeError, match="int64"):
        psnr(*torch.zeros(2, 1, 3, 16, 16, dtype=torch.int64))


# Named protocols.

DIGESTS = {"astronaut": "a8c429c18afa", "chelsea": "416b729128bf", "coffee": "0ce2b51640b9"}

# Computed by a float64 transcription of SSIM_index.m and rgb2ycbcr.m on whole uint8 images: PSNR in dB, then SSIM.
GOLDEN_PROTOCOLS = ("rgb", "y_matlab", "y_double", "y_double_crop4")
GOLDEN = {
    "astronaut posterised": [36.277993, 38.259042, 38.368953, 38.362308, 0.957067, 0.987583, 0.988533, 0.988609],
    "astronaut shifted": [23.786488, 25.338155, 25.341131, 25.736859, 0.830523, 0.863294, 0.864366, 0.862742],
    "chelsea posterised": [35.699474, 37.778444, 37.817078, 37.810235, 0.966987, 0.986513, 0.987585, 0.987785],
    "coffee posterised": [35.795559, 37.746675, 37.823949, 37.824325, 0.925867, 0.985882, 0.986923, 0.986902],
}
CHANGES = {"posterised": lambda image: image & 0xF8, "shifted": lambda image: np.roll(image, 1, axis=1)}


def photograph(name: str) -> np.ndarray:
    """uint8 (H, W, 3) photograph of scikit-image, verified by its hash."""
    image = getattr(data, name)()
    assert hashlib.sha256(image.tobytes()).hexdigest()[:12] == DIGESTS[name]
    return image


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_values(case):
    name, change = case.split()
    clean = photograph(name)
    pair = as_batch(CHANGES[change](clean)), as_batch(clean)
    protocols = [PROTOCOLS[protocol] for protocol in GOLDEN_PROTOCOLS]
    scores = [protocol.psnr(*pair).item() for protocol in protocols]
    scores += [protocol.ssim(*pair).item() for protocol in protocols]
    assert scores == pytest.approx(GOLDEN[case], rel=0, abs=6e-7)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rgb_sk7", {"quantize": False, "window": "uniform7", "covariance": "sample"}),
        ("rgb_zeropad", {"quantize": False, "padding": "zero"}),
        ("rgb_avgpool", {"quantize": False, "pool": "avg256"}),
        ("yfull_sk7", {**FULL_LUMA, "window": "uniform7", "covariance": "sample"}),
    ],
)
def test_other_protocols_have_the_settings_of_their_papers(name, settings):
    protocol = PROTOCOLS[name]
    assert protocol == Protocol(**{"name": name, "reproduces": protocol.reproduces, "channel": "rgb"} | settings)


def test_all_protocols_differ():
    settings = {name: {**dataclasses.asdict(p), "name": "", "reproduces": ""} for name, p in PROTOCOLS.items()}
    assert all(PROTOCOLS[name].name == name for name in PROTOCOLS)
    assert len({tuple(fields.items()) for fields in settings.values()}) == len(PROTOCOLS) == 8


def test_the_default_protocols_are_rgb_and_those_of_the_data_set():
    assert select_protocols((), ("y_matlab",)) == ("rgb", "y_matlab")
    assert select_protocols((), ("rgb", "rgb_avgpool")) == ("rgb", "rgb_avgpool")
    assert select_protocols(()) == ("rgb",)
    assert select_protocols(("y_double",), ("y_matlab",)) == ("y_double",)
    assert select_protocols(("all",)) == tuple(PROTOCOLS)


def test_an_unknown_protocol_is_rejected_with_the_known_names():
    with pytest.raises(ValueError, match=r"'y'; known: rgb, y_matlab"):
        select_protocols(("rgb", "y"))


@pytest.mark.skipif("RESTORE_DIFF_TEST_DATA" not in os.environ, reason="needs Rain100L in RESTORE_DIFF_TEST_DATA")
def test_rain100l_inputs_score_as_published():
    root = Path(os.environ["RESTORE_DIFF_TEST_DATA"]) / "rain" / "Rain100L"

    def read(kind: str, number: int) -> torch.Tensor:
        return as_batch(np.asarray(Image.open(root / kind / f"{number}.png").convert("RGB")))

    pairs = [(read("input", number), read("target", number)) for number in range(1, 101)]
    rgb, matlab, double = (PROTOCOLS[name] for name in ("rgb", "y_matlab", "y_double"))
    assert round(torch.cat([rgb.psnr(*pair) for pair in pairs]).mean().item(), 2) == 25.52
    assert round(torch.cat([matlab.psnr(*pair) for pair in pairs]).mean().item(), 2) == 26.90
    assert round(torch.cat([double.ssim(*pair) for pair in pairs]).mean().item(), 4) == 0.8384
