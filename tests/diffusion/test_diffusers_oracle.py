"""The schedules and DDIM against diffusers' schedulers, an independent implementation, in float64."""

import pytest
import torch

from restore_diff.diffusion.samplers import DDIMSampler
from restore_diff.diffusion.schedule import SCHEDULES, NoiseSchedule, timestep_ladder
from restore_diff.settings import SamplerConfig, ScheduleConfig

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.*")

SCHEDULE = NoiseSchedule(ScheduleConfig())
LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
NAMES = {"epsilon": "epsilon", "clean": "sample", "velocity": "v_prediction"}


def images(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predict(x_t: torch.Tensor, t: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x_t + 0.5 * degraded) * (0.5 + t.view(-1, 1, 1, 1) / 2000)


def sample(kind, **settings) -> torch.Tensor:
    return DDIMSampler(SCHEDULE, kind, SamplerConfig(**settings)).sample(predict, images(100), images)


def ddim_sample(num_steps: int, spacing: str, kind: str, eta: float, clip: bool) -> torch.Tensor:
    """diffusers' own DDIM; right where each step is T // num_steps long, which it takes for granted."""
    oracle = diffusers.DDIMScheduler(
        **LINEAR, timestep_spacing=spacing, prediction_type=NAMES[kind], clip_sample=clip, set_alpha_to_one=True
    )
    oracle.alphas_cumprod = SCHEDULE.alpha_bar
    oracle.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    oracle.set_timesteps(num_steps)
    x_t = images(0)
    for draw, t in enumerate(oracle.timesteps, start=1):
        output = predict(x_t, t.expand(2), images(100))
        noise = images(draw) if eta else None
        x_t = oracle.step(output, t, x_t, eta, use_clipped_model_output=clip, variance_noise=noise).prev_sample
    return x_t


def dpm_sample(ladder: list[int], kind: str, algorithm: str) -> torch.Tensor:
    """Order 1 of DPM-Solver++, which is DDIM at eta 0 and its SDE form at eta 1, on any ladder."""
    oracle = diffusers.DPMSolverMultistepScheduler(
        **LINEAR, solver_order=1, algorithm_type=algorithm, final_sigmas_type="zero", prediction_type=NAMES[kind]
    )
    oracle.set_timesteps(timesteps=ladder)
    alpha_bar = SCHEDULE.alpha_bar[ladder]
    oracle.sigmas = torch.cat([((1 - alpha_bar) / alpha_bar).sqrt(), torch.zeros(1, dtype=torch.float64)])
    x_t = images(0)
    for index, t in enumerate(ladder):
        oracle._step_index = index  # its step() would round to float32
        clean = oracle.convert_model_output(predict(x_t, torch.full((2,), t), images(100)), sample=x_t)
        x_t = oracle.dpm_solver_first_order_update(clean, sample=x_t, noise=images(index + 1))
    return x_t


@pytest.mark.parametrize("name, theirs", [("linear", "linear"), ("quadratic", "scaled_linear")])
def test_betas_equal_those_of_diffusers(name, theirs):
    oracle = diffusers.DDIMScheduler(**LINEAR | {"beta_schedule": theirs})
    torch.testing.assert_close(SCHEDULES[name](ScheduleConfig(name=name)), oracle.betas.double(), rtol=2e-6, atol=0)


def test_cosine_equals_squaredcos_cap_v2():
    oracle = diffusers.DDIMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    ours = NoiseSchedule(ScheduleConfig(name="cosine"))
    torch.testing.assert_close(
        SCHEDULES["cosine"](ScheduleConfig(name="cosine")), oracle.betas.double(), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(ours.alpha_bar, oracle.alphas_cumprod.double(), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("num_steps", [2, 3, 4, 7, 10, 15, 25, 30, 333, 600, 1000])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_ladders_equal_those_of_diffusers(spacing, num_steps):
    oracle = diffusers.DDIMScheduler(**LINEAR, timestep_spacing=spacing)
    oracle.set_timesteps(num_steps)
    assert timestep_ladder(spacing, num_steps, 1000) == oracle.timesteps.tolist()


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("spacing, num_steps", [("leading", 4), ("leading", 7), ("leading", 30), ("trailing", 25)])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_equals_that_of_diffusers(kind, spacing, num_steps, eta, clip):
    ours = sample(kind, spacing=spacing, num_steps=num_steps, eta=eta, clip=clip)
    oracle = ddim_sample(num_steps, spacing, kind, eta, clip)
    torch.testing.assert_close(ours, oracle, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("spacing, num_steps", [("trailing", 3), ("trailing", 15), ("linspace", 4), ("linspace", 25)])
@pytest.mark.parametrize("eta, algorithm", [(0.0, "dpmsolver++"), (1.0, "sde-dpmsolver++")])
def test_ddim_equals_dpm_solver_of_order_1_on_any_ladder(kind, spacing, num_steps, eta, algorithm):
    ours = sample(kind, spacing=spacing, num_steps=num_steps, eta=eta, clip=False)
    oracle = dpm_sample(timestep_ladder(spacing, num_steps, 1000), kind, algorithm)
    torch.testing.assert_close(ours, oracle, rtol=1e-9, atol=1e-9)


def test_x_t_equals_that_of_diffusers():
    t = torch.tensor([3, 700])
    oracle = diffusers.DDPMScheduler(**LINEAR)
    oracle.alphas_cumprod = SCHEDULE.alpha_bar
    clean, epsilon = images(0), images(1)
    ours = SCHEDULE.signal(t, clean) * clean + SCHEDULE.noise(t, clean) * epsilon
    torch.testing.assert_close(ours, oracle.add_noise(clean, epsilon, t), rtol=0, atol=1e-14)
