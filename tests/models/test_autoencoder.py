"""Latent diffusion: autoencoders as codecs, trained here or by diffusers, and the bound that they set."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import restore_diff as rd
from restore_diff.commands.test import main as score
from restore_diff.config import ConfigError, config_from_dict
from restore_diff.models.unet import make_network
from restore_diff.settings import NetworkConfig
from restore_diff.trained import codec

SMALL = [
    *("training.num_steps=2", "training.batch_size=2", "training.warmup_steps=1", "data.crop_size_px=16"),
    *("data.num_workers=0", "data.num_validation=0", "evaluation.lpips=none", "sampler.num_steps=1"),
]
LATENT = [
    *("model.base_channels=8", "model.channel_multipliers=[1]", "model.num_blocks=1", "model.num_groups=4"),
    *("model.attention_levels=[]", "model.mid_attention=false", "model.image_channels=4", "model.condition_channels=4"),
]


def autoencoder(**options):
    torch.manual_seed(0)
    return make_network(NetworkConfig(kind="autoencoder", options={"channels": 8, **options}))


@pytest.mark.parametrize("downscale", [2, 4, 8])
def test_latents_are_smaller_by_downscale_and_within_the_range_of_samplers(downscale):
    model = autoencoder(downscale=downscale, latent_channels=5)
    images = 50 * torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    latents = model.encode(images)
    assert latents.shape == (2, 5, 16 // downscale, 24 // downscale)
    assert latents.abs().max() <= 1
    assert latents.std() > 0.01
    assert model.decode(latents).shape == images.shape


def test_the_output_is_the_reconstruction_of_the_degraded_image_whatever_x_t_and_t():
    model, images = autoencoder(), torch.rand(2, 3, 8, 8) * 2 - 1
    first = model(torch.randn(2, 3, 8, 8), torch.tensor([0, 5]), images)
    assert torch.equal(first, model(torch.zeros(2, 3, 8, 8), torch.tensor([9, 9]), images))
    assert torch.equal(first, model.decode(model.encode(images)))
    first.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_network_without_condition_or_with_a_hint_is_no_autoencoder():
    for changes in ({"condition_channels": 0}, {"hint": True}):
        with pytest.raises(ValueError, match="reconstructs the degraded image"):
            make_network(NetworkConfig(kind="autoencoder", **changes))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = torch.Generator().manual_seed(0)
    for name in ("input", "target"):
        Path(name).mkdir()
        for number in range(3):
            pixels = torch.randint(256, (18, 22, 3), generator=random, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(f"{name}/{number}.png")
    return tmp_path


def test_a_run_on_latents_of_a_trained_autoencoder_restores_and_prints_its_bound(folder, capsys):
    options = ["model.options.latent_channels=4", "model.options.channels=8"]
    first = rd.train("autoencoder.yaml", data="target", overrides=["data.test=target", *SMALL, *options])
    run = rd.train(
        "derain.yaml",
        data="input:target",
        overrides=[*SMALL, *LATENT, "codec.name=autoencoder", f"codec.options.weights={first.path}"],
    )
    degraded = torch.rand(1, 3, 17, 21)
    restored = run.load()(degraded)
    assert restored.shape == degraded.shape
    assert restored.isfinite().all()
    capsys.readouterr()
    assert score(["--ckpt", str(run.path), "--metrics", "psnr", "--device", "cpu"]) == 0
    (bound,) = re.findall(r"codec +autoencoder .* PSNR ([\d.]+) dB \(rgb\)", capsys.readouterr().out)
    # The autoencoder alone, scored as a network whose input is the clean image.
    assert rd.evaluate(first, data="target:target", metrics=["psnr"]).mean["psnr(rgb)"] == pytest.approx(
        float(bound), abs=0.2
    )


def made(kind):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    if kind == "AutoencoderTiny":
        widths = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
        blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
        return diffusers.AutoencoderTiny(**widths, **blocks).eval()
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    scaled = {"scaling_factor": 0.5, "shift_factor": 0.25}
    return diffusers.AutoencoderKL(block_out_channels=(8, 8, 8), norm_num_groups=4, **blocks, **scaled).eval()


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
@torch.no_grad()
def test_a_folder_of_diffusers_is_a_codec(kind, tmp_path):
    network = made(kind)
    network.save_pretrained(tmp_path)
    found = codec(config_from_dict({"codec": {"name": "diffusers", "options": {"path": str(tmp_path)}}, "model": FOUR}))
    images = torch.rand(1, 3, 16, 24)
    latents = found.encode(images)
    assert found.downscale == 4
    assert latents.shape == (1, 4, 4, 6)
    theirs = network.encode(images * 2 - 1)
    own = theirs.latents if kind == "AutoencoderTiny" else (theirs.latent_dist.mean - 0.25) * 0.5
    torch.testing.assert_close(latents, own / 4)
    raw = theirs.latents if kind == "AutoencoderTiny" else theirs.latent_dist.mean
    torch.testing.assert_close(found.decode(latents), (network.decode(raw).sample + 1) / 2)


FOUR = {"image_channels": 4, "condition_channels": 4}


def test_weights_that_are_no_autoencoder_are_named(tmp_path):
    for name, options, message in [
        ("autoencoder", {"weights": "shipped"}, "model.kind is unet, not autoencoder"),
        ("diffusers", {"path": str(tmp_path)}, "no folder with a config.json"),
        ("diffusers", {}, "codec.options.path: field required"),
    ]:
        with pytest.raises((ConfigError, rd.trained.WeightsError), match=message):
            codec(config_from_dict({"codec": {"name": name, "options": options}, "model": FOUR}))
