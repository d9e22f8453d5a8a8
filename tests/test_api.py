"""The Python front door: load, train, evaluate, sample."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import restore_diff as rd
from restore_diff.checkpoint import Checkpoint, Progress, save_checkpoint
from restore_diff.commands.restore import main as restore
from restore_diff.config import config_from_dict, to_dict
from restore_diff.trained import SHIPPED, network


@pytest.fixture(scope="module")
def restorer():
    return rd.load("shipped", quality="fast", dtype="float32")


def picture(height=40, width=50):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(3))


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, restore_diff as rd; dir(rd); print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_every_public_name_exists():
    assert {"load", "train", "evaluate", "sample", "SAMPLERS"} <= set(dir(rd))
    assert all(getattr(rd, name) is not None for name in rd.__all__)


def test_each_kind_of_picture_comes_back_as_it_came(restorer):
    levels = (picture().permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    as_array = restorer(levels)
    assert (as_array.dtype, as_array.shape) == (np.uint8, levels.shape)
    assert np.array_equal(np.asarray(restorer(Image.fromarray(levels))), as_array)
    as_float = restorer(levels.astype(np.float64) / 255)
    assert as_float.dtype == np.float64
    assert np.abs(as_float * 255 - as_array).max() <= 0.51
    tensor = torch.from_numpy(levels).permute(2, 0, 1) / 255
    assert torch.allclose(restorer(tensor), torch.from_numpy(as_float).permute(2, 0, 1).float(), atol=1e-5)
    assert restorer(tensor[None]).shape == (1, 3, 40, 50)


def test_grey_and_transparent_images_keep_their_mode(restorer):
    transparent = Image.new("RGBA", (20, 16), (90, 120, 30, 77))
    assert restorer(transparent).mode == "RGBA"
    assert restorer(transparent).getpixel((3, 3))[3] == 77
    assert restorer(Image.new("L", (20, 16), 90)).mode == "L"
    assert restorer(np.full((16, 20), 90, np.uint8)).shape == (16, 20)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("photo.jpg", "got str"),
        (np.zeros((4, 4, 5), np.uint8), r"\(H,W,3\) or \(H,W\), got \(4, 4, 5\)"),
        (np.zeros((4, 4, 3), np.int64), "got int64"),
        (np.full((4, 4, 3), 200.0), r"values in \[0, 1\], got 200 to 200"),
        (torch.full((3, 4, 4), float("nan")), "got nan"),
        (torch.zeros(4, 4), r"got \(4, 4\) of torch.float32"),
        (Image.new("CMYK", (4, 4)), "mode CMYK"),
    ],
)
def test_wrong_input_is_one_sentence_that_names_it(restorer, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        restorer(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"source": "absent"}, {"quality": "gut"}, {"device": "cuda:7"}, {"dtype": "int8"}])
def test_wrong_options_are_value_errors(options):
    with pytest.raises(ValueError, match=next(iter(options.values()))):
        rd.load(**options)


def test_loading_twice_reads_once(restorer, monkeypatch):
    monkeypatch.setattr("restore_diff.trained.load_experiment", None)
    assert rd.load("shipped").network is restorer.network


def test_a_file_s_name_gives_the_result_of_the_command(restorer, tmp_path):
    Image.fromarray((picture().permute(1, 2, 0) * 255).to(torch.uint8).numpy()).save(tmp_path / "a.png")
    arguments = ["-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--ckpt", "shipped", "--quality", "fast"]
    assert restore([*arguments, "--dtype", "float32"]) == 0
    found = restorer(Image.open(tmp_path / "a.png"), name="a.png")
    assert np.array_equal(np.asarray(found), np.asarray(Image.open(tmp_path / "out" / "a.png")))


def test_the_standard_deviation_is_over_the_samples():
    several = rd.load("shipped", overrides=["sampler.num_samples=3"], dtype="float32")
    mean, std = several(picture(), weather="rain", seed=1, return_std=True)
    assert mean.shape == std.shape == (3, 40, 50)
    assert 0 < std.mean() < 0.2
    assert not torch.equal(mean, several(picture(), weather="rain", seed=2))


def test_sample_is_the_sampler_with_its_schedule(restorer):
    """The clean image is known exactly, so that one step returns it."""
    clean = picture(8, 8)[None]
    seen = []
    found = rd.sample(
        lambda x_t, t, degraded: clean * 2 - 1,
        torch.zeros(1, 3, 8, 8),
        schedule="cosine",
        prediction="clean",
        num_steps=4,
        callback=lambda step, x_t, estimate: seen.append(step),
    )
    torch.testing.assert_close(found, clean)
    assert seen == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="did you mean ddim"):
        rd.sample(restorer.network, clean, sampler="ddmi")
    with pytest.raises(ValueError, match="shape"):
        rd.sample(restorer.network)


def test_guidance_changes_the_result_and_scale_zero_does_not(restorer):
    given = picture(16, 16)[None]
    plain = rd.sample(restorer.network, given, prediction="residual", num_steps=2)
    same = rd.sample(restorer.network, given, prediction="residual", num_steps=2, guidance=lambda found, *_: found)
    assert torch.equal(plain, same)
    darker = rd.sample(
        restorer.network,
        given,
        prediction="residual",
        num_steps=2,
        guidance=lambda found, x_t, level, denoise: found._replace(clean=found.clean - 0.1),
    )
    assert darker.mean() < plain.mean() - 0.02


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A folder that stands for the hub, with a folder for each repository; huggingface_hub sends nothing."""
    import huggingface_hub

    def upload_folder(repo_id, folder_path, **_):
        shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)

    monkeypatch.setattr(huggingface_hub, "create_repo", lambda name, **_: (tmp_path / "hub" / name).mkdir(parents=True))
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path / "hub" / name))
    return tmp_path / "hub"


@pytest.fixture
def run(tmp_path):
    """A finished run of a small network, with one scored test set."""
    config = config_from_dict({"name": "small", "model": {"base_channels": 32, "head_channels": 0}})
    tensors = {name: tensor + 0.01 for name, tensor in network(config).state_dict().items()}  # no output of zeros
    checkpoint = Checkpoint(
        Progress(step=7, best=None, loss_scale=None, meter_totals=(0, 0, 0)),
        to_dict(config),
        {},
        tensors,
        tensors,
        {"conv_in.weight/step": torch.zeros(())},
    )
    save_checkpoint(tmp_path / "runs/small/checkpoints", checkpoint)
    (tmp_path / "runs/small/test/rain100l").mkdir(parents=True)
    (tmp_path / "runs/small/test/rain100l/table.md").write_text("| PSNR |\n| 31.86 |\n")
    return rd.Run(tmp_path / "runs/small", config)


def test_a_run_on_the_hub_restores_as_it_does_here(hub, run):
    run.push_to_hub("someone/small")
    assert sorted(path.name for path in (hub / "someone/small").iterdir()) == ["README.md", "model.safetensors"]
    card = (hub / "someone/small/README.md").read_text()
    assert card.startswith("---\nlibrary_name: restore_diff\npipeline_tag: image-to-image\n")
    for text in ('rd.load("hub:someone/small")', "| 31.86 |", "7 optimizer steps on `skimage`"):
        assert text in card
    given = picture(16, 16)
    assert torch.equal(rd.load("hub:someone/small")(given), run.load()(given))


def test_a_card_of_the_user_s_own_is_uploaded(hub, run, tmp_path):
    (tmp_path / "card.md").write_text("# Mine")
    run.push_to_hub("someone/small", card=tmp_path / "card.md")
    assert (hub / "someone/small/README.md").read_text() == "# Mine"
    with safe_open(hub / "someone/small/model.safetensors", "pt") as file:
        assert file.metadata()["model_card"] == "# Mine"


def test_an_upload_that_fails_is_one_sentence(hub, run, monkeypatch):
    def refuse(name, **_):
        raise OSError("403 Forbidden\nRequest ID: 1")

    monkeypatch.setattr("huggingface_hub.create_repo", refuse)
    with pytest.raises(ValueError, match=r"^hub:someone/small: not uploaded \(403 Forbidden\)$"):
        run.push_to_hub("someone/small")
    with pytest.raises(ValueError, match="no such checkpoint"):
        rd.Run(run.path / "gone", run.config).push_to_hub("someone/small")


def test_a_hub_repository_is_read_from_a_folder_that_stands_for_it(hub):
    (hub / "someone/weights").mkdir(parents=True)
    (hub / "someone/weights/model.safetensors").symlink_to(SHIPPED)
    assert rd.load("hub:someone/weights").config.model.hint
