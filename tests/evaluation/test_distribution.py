"""FID and KID of two folders: what is printed and written, with and without what they need."""

import json
import sys

import pytest
import torch
from PIL import Image

from restore_diff.evaluation import folders
from restore_diff.evaluation.folders import pair_folders, score_distributions
from restore_diff.metrics.distribution import Distances

CPU = torch.device("cpu")


class StandIn:
    """Tells the sums of the first and of the second set as the distances."""

    tool = "torchmetrics 1.9.0, torch-fidelity 0.4.0"

    def __init__(self, device: torch.device, *, download: bool) -> None:
        pass

    def __call__(self, pred, target) -> Distances:
        return Distances(*(float(sum(image[0, 0, 0].item() for image in images)) for images in (pred, target)), 0.5)


@pytest.fixture
def pairs(tmp_path):
    for number in range(3):
        for side, level in (("pred", 1), ("target", 10)):
            (tmp_path / side).mkdir(exist_ok=True)
            Image.new("RGB", (12, 12), (level * (number + 1),) * 3).save(tmp_path / side / f"{number}.png")
    return pair_folders(tmp_path / "pred", tmp_path / "target")


def test_few_images_are_warned_of_and_kid_is_the_one_to_read(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "InceptionDistance", StandIn)
    lines = score_distributions(pairs, tmp_path / "out", CPU)
    assert lines[0].startswith("FID 6.000, KID 60.00000 ± 0.50000 (n=3, torchmetrics 1.9.0")
    assert lines[1] == "warning: FID of 3 images (fewer than 2,048) is biased upwards; use KID"
    found = json.loads((tmp_path / "out" / "distribution.json").read_text())
    assert (found["status"], found["fid"], found["kid"], found["n"]) == ("computed", 6, 60, 3)
    assert "without antialiasing" in found["resize"] and found["tool"] == StandIn.tool
    monkeypatch.setattr(folders, "MIN_IMAGES", 3)
    assert len(score_distributions(pairs, tmp_path / "out", CPU)) == 1


def test_what_is_missing_is_told_and_nothing_is_made_up(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    (line,) = score_distributions(pairs, tmp_path / "out", CPU)
    assert line.startswith("FID, KID not computed: ") and "pip install restore_diff[fid]" in line
    found = json.loads((tmp_path / "out" / "distribution.json").read_text())
    assert found["status"] == "unavailable" and "fid" not in found and "torch_fidelity" in found["reason"]
