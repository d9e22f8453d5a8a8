"""The weather head is trained by an example, alone, and left alone by train.py."""

import runpy
from pathlib import Path

import torch
from toy_run import toy_batches, toy_config, toy_optimisation

from restore_diff.checkpoint import load_weights, save_weights
from restore_diff.config import load_config, to_dict
from restore_diff.trained import initial_network

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_recognition.py"
TINY = [
    *("model.base_channels=8", "model.channel_multipliers=[1,2]", "model.num_blocks=1", "model.num_groups=4"),
    *("model.attention_levels=[]", "model.mid_attention=false", "model.hint=true", "training.batch_size=8"),
    *("data.crop_size_px=32", "data.num_workers=0", "data.weather={none: 1, haze: 1}", "data.haze.beta=[2.0,2.6]"),
]


def test_the_example_trains_the_head_alone_and_its_loss_falls(tmp_path, capsys):
    config = load_config([], TINY)
    save_weights(tmp_path / "blind.safetensors", initial_network(config).state_dict(), to_dict(config), step=7)
    main = runpy.run_path(str(EXAMPLE))["main"]
    output = tmp_path / "sees.safetensors"
    options = ["--num-steps", "60", "--log-every", "30", "--weight-decay", "0", "--learning-rate", "2e-2"]
    assert main([str(tmp_path / "blind.safetensors"), "-o", str(output), *options, "--device", "cpu"]) == 0
    before, after = load_weights(tmp_path / "blind.safetensors"), load_weights(output)
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())
    assert {name.partition(".")[0] for name in after.tensors.keys() - before.tensors.keys()} == {"weather_head"}
    assert after.config["model"]["recognise"] and after.step == 7
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert losses[1] < 0.9 * losses[0] < 0.9 * 0.7


def test_the_rest_of_a_network_is_trained_without_its_head():
    """DDP waits for the gradient of every trained parameter: the unused head must not be among them."""
    config = toy_config()
    optimisation = toy_optimisation(config, recognise=True)
    optimisation.advance(0, toy_batches(config)(0))
    idle = {name for name, p in optimisation.model.named_parameters() if not p.requires_grad}
    assert idle == {name for name, _ in optimisation.model.named_parameters() if name.startswith("weather_head.")}
    assert all(p.grad is not None for p in optimisation.model.parameters() if p.requires_grad)
