"""Two folders of finished images: paired by name, never resized, refused whole where something is wrong."""

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
def folders(tmp_path):
    for seed, name in enumerate(("10.png", "9.png", "x.png")):
        save(tmp_path / "pred", name, seed)
        save(tmp_path / "target", name, seed + 1)
    return tmp_path / "pred", tmp_path / "target"


def test_images_are_paired_by_name(folders):
    rows = {row.name: row for row in score_folders(*folders, SCORER)}
    assert sorted(rows) == ["10", "9", "x"]
    assert len({row.scores["psnr_rgb"] for row in rows.values()}) == 3
    assert all(row.flags == () and row.scores["psnr_rgb"] < 12 for row in rows.values())
    assert set(rows["x"].scores) == {"psnr_rgb", "ssim_rgb"}
    # pred/9 was made with the seed of target/10: paired by order it would be identical.
    same = score_folders(folders[1], folders[1], SCORER)
    assert all(row.flags == ("identical",) for row in same)


def test_scores_are_those_of_the_protocol(folders):
    (row,) = (row for row in score_folders(*folders, Scorer(("y_double",))) if row.name == "9")
    levels = [np.asarray(Image.open(folder / "9.png")).transpose(2, 0, 1)[None].copy() for folder in folders]
    pred, target = map(torch.from_numpy, levels)
    assert row.scores["psnr_y_double"] == PROTOCOLS["y_double"].psnr(pred, target).item()
    assert (row.width, row.height) == (24, 20)


def test_images_without_a_partner_are_named(folders):
    save(folders[0], "extra.png", 5)
    save(folders[1], "missing.png", 5)
    with pytest.raises(
        DataError, match=r"1 images of .*pred have no partner in .*target \(extra\); 1 images .*missing"
    ):
        score_folders(*folders, SCORER)


def test_two_files_of_one_name_are_refused(folders):
    save(folders[0], "9.bmp", 5)
    with pytest.raises(DataError, match="same name"):
        score_folders(*folders, SCORER)


def test_unequal_sizes_are_refused_before_anything_is_scored(folders):
    save(folders[0], "x.png", 2, size=(20, 25))
    seen = []
    with pytest.raises(DataError, match=r"1 images differ in size .*: x"):
        score_folders(*folders, SCORER, on_image=seen.append)
    assert seen == []


def test_jpeg_results_are_refused_unless_allowed(folders):
    (folders[0] / "x.png").unlink()
    save(folders[0], "x.jpg", 2)
    with pytest.raises(DataError, match=r"JPEG.*x\.jpg"):
        score_folders(*folders, SCORER)
    assert len(score_folders(*folders, SCORER, allow_jpeg=True)) == 3


def test_jpeg_ground_truth_is_fine(folders):
    (folders[1] / "x.png").unlink()
    save(folders[1], "x.jpg", 2)
    assert len(score_folders(*folders, SCORER)) == 3


def test_sixteen_bits_and_transparency_are_refused(folders):
    Image.fromarray(np.zeros((20, 24), dtype=np.uint16)).save(folders[0] / "x.png")
    with pytest.raises(ValueError, match=r"x\.png.*16 bits"):
        score_folders(*folders, SCORER)
    Image.new("RGBA", (24, 20), (9, 9, 9, 128)).save(folders[0] / "x.png")
    with pytest.raises(ValueError, match=r"x\.png.*transparent"):
        score_folders(*folders, SCORER)
    Image.new("RGBA", (24, 20), (9, 9, 9, 255)).save(folders[0] / "x.png")
    assert len(score_folders(*folders, SCORER)) == 3


def test_orientation_of_the_camera_is_applied_to_both_sides(folders):
    upright = Image.open(folders[1] / "x.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(folders[0] / "x.png", exif=exif)
    (row,) = (row for row in score_folders(*folders, SCORER) if row.name == "x")
    assert row.flags == ("identical",)
