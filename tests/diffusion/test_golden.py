"""Losses and samples are those of earlier versions: inputs without random numbers, the outcome stored."""

import pytest
import torch

from restore_diff.diffusion.loss import GaussianDiffusion
from restore_diff.diffusion.samplers import SAMPLERS
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.settings import DiffusionConfig, SamplerConfig, ScheduleConfig

SCHEDULE = NoiseSchedule(ScheduleConfig())
DEGRADED = torch.linspace(-0.9, 0.9, 4, dtype=torch.float64).view(1, 4)
LOSSES = {"epsilon": 2.2609523274, "clean": 0.6809298167, "velocity": 0.1377839385, "residual": 0.2850917559}
SAMPLES = {
    "epsilon": [-1.0, -1.0, -0.0257796178, 1.0],
    "clean": [-0.2388457023, -0.3977335925, 0.5063746376, 0.3944066337],
    "velocity": [-1.0, 0.0626905251, -0.0210244226, 1.0],
    "residual": [-0.5164284473, -0.498183858, 0.6139907365, 0.5690077764],
}


def predict(x_t: torch.Tensor, t: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    return 0.5 * torch.sin(3 * x_t) + 0.4 * degraded * t.view(-1, 1) / 1000


def noise(draw: int) -> torch.Tensor:
    return torch.linspace(-1.5, 1.2, 4, dtype=torch.float64).view(1, 4) / (1 + draw)


def test_a_loss_is_that_of_earlier_versions(kind):
    diffusion = GaussianDiffusion(SCHEDULE, DiffusionConfig(prediction=kind, weighting="snr_clamp", snr_min=1.0))
    loss = diffusion.loss(predict, DEGRADED**3, DEGRADED, torch.tensor([300]), noise(0))
    assert loss.item() == pytest.approx(LOSSES[kind], abs=1e-9)


def test_a_sample_of_four_steps_is_that_of_earlier_versions(kind):
    sample = SAMPLERS["ddim"](SCHEDULE, kind, SamplerConfig(num_steps=4, eta=0.5)).sample(predict, DEGRADED, noise)
    torch.testing.assert_close(sample, torch.tensor([SAMPLES[kind]], dtype=torch.float64), rtol=0, atol=1e-9)
