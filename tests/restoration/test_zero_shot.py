"""Zero-shot restoration from files and from Python, with an unconditional network of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import restore_diff as rd
from restore_diff import trained
from restore_diff.checkpoint import save_weights
from restore_diff.commands import restore
from restore_diff.config import load_config, to_dict
from restore_diff.data.images import read_image

TINY = [
    *("model.base_channels=8", "model.channel_multipliers=[1]", "model.num_groups=4", "sampler.num_steps=2"),
    *("sampler.num_samples=1", "sampler.mirror=true"),
]


def picture(height=20, width=24):
    ramp = np.linspace(20, 230, height * width * 3).reshape(height, width, 3)
    return (ramp + 20 * np.sin(np.arange(width))[:, None]).astype(np.uint8)


def hole(height=20, width=24, white=255):
    mask = np.zeros((height, width), np.uint8)
    mask[4:9, 3:7] = white
    return mask


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """The weights file of an unconditional network, at random."""
    config = load_config(["prior.yaml"], TINY)
    network = trained.network(config)
    torch.nn.init.normal_(network.conv_out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("prior") / "prior.safetensors"
    save_weights(path, network.state_dict(), to_dict(config), step=1)
    return path


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """photo.png and mask.png in the current folder."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture()).save("photo.png")
    Image.fromarray(hole()).save("mask.png")


def run(prior, task, source="photo.png", *more):
    return restore.main(
        ["-i", source, "-o", "out", "--ckpt", str(prior), "--device", "cpu", "--zero-shot", task, *more]
    )


def test_inpainting_keeps_known_pixels_and_fills_in_the_others(prior):
    assert run(prior, "inpaint:mask.png", "photo.png", "--n-samples", "2") == 0  # the second of a mirrored picture
    found, given, filled = np.asarray(Image.open("out/photo.png")), picture(), hole() > 0
    assert np.array_equal(found[~filled], given[~filled])
    assert (found[filled] != given[filled]).any()
    restorer = rd.load(prior, device="cpu", zero_shot="inpaint", overrides=["sampler.num_samples=2"])
    float_picture = np.where(filled[..., None], np.nan, given / 255.0)
    assert np.abs(restorer(float_picture, name="photo.png") * 255 - found).max() < 1


@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 6)])
def test_super_resolution_writes_a_larger_image_with_the_given_means(prior, height, width):
    small = picture(height, width) // 8 + 110
    rgba = np.dstack([small, np.full(small.shape[:2], 200, np.uint8)])
    Image.fromarray(rgba).save("small.png")
    assert run(prior, "sr:3", "small.png", "--compare") == 0
    found = np.asarray(Image.open("out/small.png"))
    assert found.shape == (3 * height, 3 * width, 4)
    assert (found[..., 3] == 200).all()
    means = found[..., :3].reshape(height, 3, width, 3, 3).mean((1, 3))
    inside = (found[..., :3] > 0) & (found[..., :3] < 255)
    unclipped = inside.reshape(height, 3, width, 3, 3).all((1, 3))
    assert unclipped.mean() > 0.2
    assert np.abs(means - small)[unclipped].max() < 1
    same = rd.load(prior, device="cpu", zero_shot="sr:3")(Image.fromarray(rgba), name="small.png")
    assert np.abs(np.asarray(same).astype(int) - found).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_colorizing_writes_colour_with_the_given_luma(prior, mode):
    grey = Image.fromarray(picture()).convert("L")
    grey.convert(mode).save("grey.png")
    assert run(prior, "colorize", "grey.png") == 0
    written = Image.open("out/grey.png")
    assert written.mode == "RGB"
    unclipped = ((np.asarray(written) > 0) & (np.asarray(written) < 255)).all(-1)
    luma = np.asarray(written) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma - np.asarray(grey))[unclipped].max() < 1
    assert rd.load(prior, device="cpu", zero_shot="colorize")(grey.convert(mode)).mode == "RGB"


def test_deblurring_and_dps_take_the_picture_as_it_is(prior):
    assert run(prior, "deblur:1") == 0
    assert read_image(Path("out/photo.png")).pixels.shape == (3, 20, 24)
    restorer = rd.load(prior, device="cpu", zero_shot="deblur:1", overrides=["sampler.guidance=dps"])
    assert restorer(torch.rand(2, 3, 12, 12)).isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (None, "mask bad.png: no such file"),
        (lambda: hole(white=254), "mask bad.png: a mask is black (keep) and white (fill in) only"),
        (lambda: np.dstack([hole(), hole(white=0), hole()]), "black (keep) and white (fill in) only"),
        (lambda: hole(white=0), "mask bad.png: nothing to fill in"),
        (lambda: hole(width=25), "mask bad.png is 25x20, but photo.png is 24x20: give both one size"),
    ],
)
def test_a_bad_mask_is_one_line_and_bad_usage(prior, make, message, capsys):
    if make is not None:
        Image.fromarray(make()).save("bad.png")
    assert run(prior, "inpaint:bad.png") == 2
    assert not list(Path("out").glob("*.png"))
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("sr:1", "--zero-shot: sr:FACTOR: the factor must be a whole number from 2 to 16, got '1'"),
        ("recolor", "--zero-shot: zero-shot task: unknown name 'recolor'"),
    ],
)
def test_an_unknown_task_is_bad_usage(prior, task, message, capsys):
    assert run(prior, task) == 2
    assert message in capsys.readouterr().err


def test_inpainting_needs_the_file_of_a_mask(prior, capsys):
    with pytest.raises(SystemExit) as ended:
        run(prior, "inpaint")
    assert ended.value.code == 2
    assert "--zero-shot inpaint:MASK: name the file of the mask" in capsys.readouterr().err


def test_the_network_must_be_unconditional_and_needs_a_task(prior, capsys):
    assert run("shipped", "colorize") == 2
    assert "needs an unconditional network of pixels" in capsys.readouterr().err
    assert restore.main(["-i", "photo.png", "-o", "out", "--ckpt", str(prior), "--device", "cpu"]) == 2
    assert "restores with --zero-shot only" in capsys.readouterr().err
    with pytest.raises(ValueError, match="restores zero-shot only"):
        rd.load(prior, device="cpu")(picture())


def test_too_large_an_enlargement_fails_one_image(prior, monkeypatch, capsys):
    monkeypatch.setattr("restore_diff.restoration.zero_shot.MAX_PIXELS_IN_ONE_PIECE", 1000)
    assert run(prior, "sr:2") == 3
    assert "sr:2 would enlarge the image to 48x40, the limit is 1,000 pixels" in capsys.readouterr().err
