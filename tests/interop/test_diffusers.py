"""Networks move to diffusers and back, and compute the same outputs and samples."""

import json

import pytest
import torch
from safetensors.torch import save_file

from restore_diff.checkpoint import Weights
from restore_diff.config import ExperimentConfig, config_from_dict
from restore_diff.diffusion.samplers import DDIMSampler
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.errors import UserError
from restore_diff.interop.diffusers import read_diffusers, save_diffusers
from restore_diff.models.unet import UNet
from restore_diff.settings import NetworkConfig, SamplerConfig, ScheduleConfig
from restore_diff.trained import load_experiment

TINY = {"base_channels": 16, "channel_multipliers": [1, 2, 2], "num_blocks": 1, "num_groups": 8, "head_channels": 8}
NETWORKS = {
    "attention at a level and in the middle": {"attention_levels": [2]},
    "one head": {"attention_levels": [0, 2], "head_channels": 0},
    "no attention, two blocks": {"attention_levels": [], "mid_attention": False, "num_blocks": 2, "dropout": 0.1},
    "attention at a level alone": {"attention_levels": [1], "mid_attention": False},
    "heads of 64, four levels": {
        "base_channels": 64,
        "channel_multipliers": [1, 1, 1, 2],
        "attention_levels": [2],
        "head_channels": 64,
    },
    "one level": {"channel_multipliers": [2], "attention_levels": [0]},
    "narrowing": {"channel_multipliers": [2, 1, 3], "attention_levels": []},
}


def trained(changes: dict, **sections: dict) -> tuple[ExperimentConfig, Weights]:
    """A config and random weights, so that no branch is zero as it is at the start."""
    config = config_from_dict({"model": TINY | changes, "data": {"crop_size_px": 16}, **sections})
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) * (0.5 if tensor.dim() == 1 else tensor[0].numel() ** -0.5)
        for name, tensor in UNet(config.model).state_dict().items()
    }
    return config, Weights(tensors, {}, 7)


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
def test_diffusers_loads_the_folder_and_computes_the_same(changes, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    config, weights = trained(changes)
    save_diffusers(tmp_path / "out" / "net", config, weights)
    theirs, report = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "net", output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.dropout == config.model.dropout

    ours = UNet(config.model).eval()
    ours.load_state_dict(weights.tensors)
    generator = torch.Generator().manual_seed(6)
    x_t, degraded = (torch.randn(2, 3, 16, 32, generator=generator) for _ in range(2))
    t = torch.tensor([0, 815])
    with torch.no_grad():
        expected = ours(x_t, t, degraded)
        found = theirs.eval()(torch.cat([degraded, x_t], dim=1), t).sample
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-5


UNCONDITIONAL = {"condition_channels": 0, "attention_levels": [1]}


@pytest.mark.parametrize(
    "schedule", [{"name": "linear", "num_timesteps": 100}, {"name": "cosine"}, {"name": "sigmoid"}]
)
@pytest.mark.parametrize("prediction", ["epsilon", "clean", "velocity"])
def test_ddim_pipeline_samples_the_images_of_our_sampler(schedule, prediction, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    config, weights = trained(UNCONDITIONAL, schedule=schedule, diffusion={"prediction": prediction})
    assert save_diffusers(tmp_path, config, weights)
    pipeline = diffusers.DDIMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(4)
    steps = {"num_inference_steps": 5, "use_clipped_model_output": True}
    found = pipeline(batch_size=2, generator=generator, output_type="pt", **steps).images

    ours = UNet(config.model).eval()
    ours.load_state_dict(weights.tensors)
    sampler = DDIMSampler(NoiseSchedule(config.schedule), prediction, SamplerConfig(num_steps=5))
    start = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    expected = (sampler.sample(ours, None, lambda draw: start) + 1) / 2
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-4  # their alpha_bar is float32


def test_a_folder_and_its_weights_file_come_back_with_their_config(tmp_path):
    config, weights = trained({}, diffusion={"prediction": "residual"})
    assert not save_diffusers(tmp_path, config, weights)
    assert not (tmp_path / "scheduler_config.json").exists()
    _, loaded, back = load_experiment(tmp_path / "diffusion_pytorch_model.safetensors")
    for tensors, read, step in (read_diffusers(tmp_path), (back.tensors, loaded, back.step)):
        assert (read, step) == (config, 7)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in weights.tensors.items())


@pytest.mark.parametrize("changes", [*NETWORKS.values(), UNCONDITIONAL], ids=[*NETWORKS, "unconditional"])
def test_a_network_saved_by_diffusers_computes_the_same_here(changes, tmp_path):
    """Its files hold nothing of ours; the network and its schedule are read from their configs."""
    diffusers = pytest.importorskip("diffusers")
    config, weights = trained(changes, schedule={"name": "quadratic", "num_timesteps": 500, "beta_end": 0.01})
    save_diffusers(tmp_path / "ours", config, weights)
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours").eval()
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "ours")
    diffusers.DDIMPipeline(theirs, scheduler).save_pretrained(tmp_path / "a net", safe_serialization=True)

    tensors, read, step = read_diffusers(tmp_path / "a net")
    assert (read.name, read.diffusion.prediction, step) == ("a_net", "epsilon", 0)
    assert read.data.crop_size_px == 16
    assert torch.allclose(NoiseSchedule(read.schedule).alpha_bar, NoiseSchedule(config.schedule).alpha_bar)
    ours = UNet(read.model).eval()
    ours.load_state_dict(tensors)
    generator = torch.Generator().manual_seed(6)
    x_t, degraded = (torch.randn(2, 3, 16, 32, generator=generator) for _ in range(2))
    given = degraded if config.model.condition_channels else None
    with torch.no_grad():
        inputs = x_t if given is None else torch.cat([given, x_t], dim=1)
        expected, found = theirs(inputs, 411).sample, ours(x_t, torch.tensor([411, 411]), given)
    assert (found - expected).abs().max() < 1e-5


def test_names_of_old_attention_layers_are_read(tmp_path):
    config, weights = trained({})
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    save_diffusers(tmp_path, config, weights)
    tensors = {}
    for name, tensor in weights.tensors.items():
        for new, theirs in old.items():
            name = name.replace(f".{new}.", f".{theirs}.")
        tensors[name] = tensor
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    assert read_diffusers(tmp_path).tensors.keys() == weights.tensors.keys()


def test_the_settings_of_a_published_ddpm_are_read(tmp_path):
    """google/ddpm-cat-256, saved by diffusers 0.0.4, which had fewer settings. Its weights are not at hand here."""
    down, up = ["DownBlock2D"] * 6, ["UpBlock2D"] * 6
    down[4], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
    theirs = {"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None}
    theirs |= {"block_out_channels": [128, 128, 256, 256, 512, 512], "center_input_sample": False}
    theirs |= {"down_block_types": down, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1}
    theirs |= {"in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-6}
    theirs |= {"norm_num_groups": 32, "out_channels": 3, "sample_size": 256, "time_embedding_type": "positional"}
    scheduler = {"_class_name": "DDPMScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001}
    scheduler |= {
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "trained_betas": None,
        "variance_type": "fixed_small",
    }
    (tmp_path / "config.json").write_text(json.dumps(theirs | {"up_block_types": up}))
    (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler))
    save_file({}, tmp_path / "diffusion_pytorch_model.safetensors")
    config = read_diffusers(tmp_path).config
    model = {"base_channels": 128, "channel_multipliers": (1, 1, 2, 2, 4, 4), "attention_levels": (4,), "num_blocks": 2}
    assert config.model == NetworkConfig(**model, head_channels=0, condition_channels=0)
    assert (config.schedule, config.diffusion.prediction) == (ScheduleConfig(), "epsilon")


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        (
            "config.json",
            {"norm_eps": 1e-5, "freq_shift": 0},
            r"norm_eps=1e-05 \(here 1e-06\), freq_shift=0 \(here 1\)$",
        ),
        ("config.json", {"time_embedding_type": "fourier"}, r'time_embedding_type="fourier" \(here "positional"\)$'),
        ("config.json", {"up_block_types": ["UpBlock2D"] * 3}, r"up_block_types=.*"),
        ("config.json", {"norm_num_groups": None}, "model.num_groups: input should be a valid integer, got None"),
        (
            "config.json",
            {"layers_per_block": [1, 2]},
            r"model.num_blocks: input should be a valid integer, got \[1, 2\]",
        ),
        ("config.json", {"new_in_a_later_version": 1}, r"new_in_a_later_version=1 \(here null\)$"),
        ("scheduler_config.json", {"prediction_type": "flow"}, "its scheduler has prediction_type=flow$"),
        ("scheduler_config.json", {"trained_betas": [0.1]}, "its scheduler has trained_betas$"),
        ("scheduler_config.json", {"num_train_timesteps": "many"}, "num_train|can't"),
    ],
)
def test_a_network_without_an_equal_here_is_refused_in_one_line(file, changes, reason, tmp_path):
    config, weights = trained({})
    save_diffusers(tmp_path, config, weights)
    save_file(weights.tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    read_diffusers(tmp_path)
    content = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(content | changes))
    with pytest.raises(UserError, match=reason) as caught:
        read_diffusers(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: not a network of this project: ")
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_of_a_folder_are_named(tmp_path):
    config, weights = trained({})
    for name, message in (
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors is not in it; save_pretrained"),
        ("config.json", "config.json: cannot be read"),
        ("scheduler_config.json", "scheduler_config.json is not in it; it names the prediction"),
    ):
        save_diffusers(tmp_path, config, weights)
        save_file(weights.tensors, tmp_path / "diffusion_pytorch_model.safetensors")
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match=message):
            read_diffusers(tmp_path)
    save_diffusers(tmp_path, config, weights)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"PK\3\4 not weights")
    with pytest.raises(UserError, match="not a network of this project"):
        read_diffusers(tmp_path)


def test_a_pixel_unshuffle_is_refused_and_nothing_is_written(tmp_path):
    config, weights = trained({"unshuffle": 2})
    with pytest.raises(UserError, match=r"does not support model\.unshuffle=2; use export onnx$"):
        save_diffusers(tmp_path / "net", config, weights)
    assert not (tmp_path / "net").exists()


def test_a_failed_write_leaves_no_folder_that_loads(tmp_path, monkeypatch):
    config, weights = trained({})
    save_diffusers(tmp_path, config, weights)
    assert json.loads((tmp_path / "config.json").read_text())["norm_num_groups"] == 8

    def full(path, *more):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("restore_diff.interop.diffusers.save_weights", full)
    with pytest.raises(OSError, match="No space"):
        save_diffusers(tmp_path, config, weights)
    assert not (tmp_path / "config.json").exists()
