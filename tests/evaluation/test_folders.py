"""Two folders of finished images: paired by name, never resized, rejected before scoring if anything is wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restore_diff.data.names import DataError
from restore_diff.evaluation.evaluator import Scorer
from restore_diff.evaluation.folders import score_folders
from restore_diff.metrics.protocols import PROTOCOLS

SCORER = Scorer(("rgb",))


def save(folder, name, seed, size=(20, 24)):
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    for seed, name in enumerate(("10.png", "9.png", "x.png")):
        save(tmp_path / "pred", name, seed)
        save(tmp_path / "target", name, seed + 1)
    return tmp_path / "pred", tmp_path / "target"


def test_images_are_paired_by_name_and_scored_by_the_protocol(folders):
    rows = {row.name: row for row in score_folders(*folders, Scorer(("y_double",)))}
    assert sorted(rows) == ["10", "9", "x"]
    assert all(row.flags == () and set(row.scores) == {"psnr_y_double", "ssim_y_double"} for row in rows.values())
    # pred/9 equals target/10: pairing by order would give an infinite PSNR.
    levels = [np.asarray(Image.open(folder / "9.png")).transpose(2, 0, 1)[None].copy() for folder in folders]
    pred, target = map(torch.from_numpy, levels)
    assert rows["9"].scores["psnr_y_double"] == PROTOCOLS["y_double"].psnr(pred, target).item()
    assert (rows["9"].width, rows["9"].height) == (24, 20)
    assert all(row.flags == ("identical",) for row in score_folders(folders[1], folders[1], SCORER))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [("9.bmp", (20, 24), "same name"), ("x.png", (20, 25), r"1 images differ in size .*: x")],
)
def test_repeated_names_and_unequal_sizes_are_rejected_before_scoring(folders, name, size, message):
    save(folders[0], name, 5, size)
    with pytest.raises(DataError, match=message):
        score_folders(*folders, lambda *_: pytest.fail("scored"))


def test_jpeg_results_are_rejected_by_default_jpeg_ground_truth_is_not(folders):
    for folder in folders:
        (folder / "x.png").unlink()
        save(folder, "x.jpg", 2)
    with pytest.raises(DataError, match=r"JPEG.*x\.jpg"):
        score_folders(*folders, SCORER)
    assert len(score_folders(*folders, SCORER, allow_jpeg=True)) == 3
    (folders[0] / "x.jpg").unlink()
    save(folders[0], "x.png", 2)
    assert len(score_folders(*folders, SCORER)) == 3


def test_16_bits_and_transparency_are_rejected(folders):
    Image.fromarray(np.zeros((20, 24), dtype=np.uint16)).save(folders[0] / "x.png")
    with pytest.raises(ValueError, match=r"x\.png.*16 bits"):
        score_folders(*folders, SCORER)
    Image.new("RGBA", (24, 20), (9, 9, 9, 128)).save(folders[0] / "x.png")
    with pytest.raises(ValueError, match=r"x\.png.*transparent"):
        score_folders(*folders, SCORER)
    Image.new("RGBA", (24, 20), (9, 9, 9, 255)).save(folders[0] / "x.png")
    assert len(score_folders(*folders, SCORER)) == 3


def test_exif_orientation_is_applied_on_both_sides(folders):
    upright = Image.open(folders[1] / "x.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(folders[0] / "x.png", exif=exif)
    (row,) = (row for row in score_folders(*folders, SCORER) if row.name == "x")
    assert row.flags == ("identical",)
