"""Every recipe in configs/ takes a real optimizer step with its own network, on photographs."""

import math
from pathlib import Path

import pytest
import torch

from restore_diff import build
from restore_diff.config import load_config
from restore_diff.training.optimisation import Optimisation

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
OVERRIDES = [
    "data.train=skimage",
    "data.test=skimage",
    "data.weather=rain",
    "data.num_workers=0",
    "data.cache_mib=0",
    "training.batch_size=1",
    "training.num_micro_batches=1",
]
RECIPES = [[path.name] for path in sorted(CONFIGS.glob("*.yaml"))]
SIZES = [["derain.yaml", f"sizes/{path.name}"] for path in sorted((CONFIGS / "sizes").glob("*.yaml"))]
SLOW = ("weatherdiff64.yaml", "sizes/base.yaml", "sizes/large.yaml")


@pytest.mark.parametrize(
    "files",
    [pytest.param(files, marks=[pytest.mark.long] if files[-1] in SLOW else []) for files in RECIPES + SIZES],
    ids=lambda files: "+".join(files),
)
def test_a_config_takes_an_optimizer_step(files):
    config = load_config(files, OVERRIDES)
    model = build.network(config)
    optimisation = Optimisation(model, build.diffusion(config), config.training, config.seed, torch.device("cpu"))
    batches = build.batches(config, build.training_sets(config)[0])

    (batch,) = optimisation.advance(0, batches.iter_from(0))
    assert batch.clean.shape == (1, 3, config.data.crop_size_px, config.data.crop_size_px)
    if build.is_conditional(config):
        assert batch.degraded.shape == batch.clean.shape
        assert not torch.equal(batch.clean, batch.degraded)
    else:
        assert batch.degraded is None
    assert optimisation.guard.found() is None
    loss, gradient_norm = optimisation.meter.read()
    assert gradient_norm > 0
    if config.diffusion.prediction == "epsilon" and config.diffusion.weighting == "none":
        # The network starts at output 0, so that its squared error is that of the noise: 1.
        assert abs(loss - 1) < 5 * math.sqrt(2 / batch.clean.numel())
    assert 0 < model.get_parameter("conv_out.weight").abs().max() < 1  # it started at 0
