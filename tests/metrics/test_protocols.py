"""Named protocols: golden values, settings, selection."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from restore_diff.metrics.fidelity import psnr, ssim
from restore_diff.metrics.protocols import PROTOCOLS, select_protocols

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


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_values(case):
    name, change = case.split()
    clean = photograph(name)
    pair = as_batch(CHANGES[change](clean)), as_batch(clean)
    protocols = [PROTOCOLS[protocol] for protocol in GOLDEN_PROTOCOLS]
    scores = [protocol.psnr(*pair).item() for protocol in protocols]
    scores += [protocol.ssim(*pair).item() for protocol in protocols]
    assert scores == pytest.approx(GOLDEN[case], rel=0, abs=6e-7)


def test_other_protocols_have_the_settings_of_their_papers(pair):
    x, y = (as_batch(image).double() / 255 + 0.3 / 255 for image in pair)
    uniform: dict[str, Any] = {"window": "uniform7", "covariance": "sample"}
    full: dict[str, Any] = {"channel": "y", "y_range": "full", "round_y": True}
    expected = {
        "rgb_sk7": (psnr(x, y, quantize=False), ssim(x, y, quantize=False, **uniform)),
        "rgb_zeropad": (psnr(x, y, quantize=False), ssim(x, y, quantize=False, padding="zero")),
        "rgb_avgpool": (psnr(x, y, quantize=False), ssim(x, y, quantize=False, pool="avg256")),
        "yfull_sk7": (psnr(x, y, **full), ssim(x, y, **full, **uniform)),
    }
    for name, values in expected.items():
        assert (PROTOCOLS[name].psnr(x, y), PROTOCOLS[name].ssim(x, y)) == values


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
