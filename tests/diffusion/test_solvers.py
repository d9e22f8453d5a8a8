"""Facts about the solvers of order 2, the uneven ladders, and starting late or stopping early."""

import itertools

import pytest
import torch

from restore_diff.diffusion.samplers import SAMPLERS
from restore_diff.diffusion.schedule import NO_NOISE_LEFT, NoiseSchedule, levels, snr_ladder
from restore_diff.settings import SamplerConfig, ScheduleConfig

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.*", "ignore::FutureWarning:diffusers.*")

SCHEDULE = NoiseSchedule(ScheduleConfig())
COSINE = NoiseSchedule(ScheduleConfig(name="cosine"))
LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
MEAN, SPREAD = 0.2, 0.5  # of the Gaussian images whose score is known
LADDERS = [[999, 749, 499, 249], [999, 799, 399, 99, 9], [900, 630, 500, 380, 200, 120, 55, 20, 3]]


def images(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predict(x_t: torch.Tensor, t: torch.Tensor, degraded: torch.Tensor | None) -> torch.Tensor:
    return torch.tanh(x_t + 0.3) * (0.5 + t.view(-1, 1, 1, 1) / 2000)


def sample(name: str, predictor=predict, schedule=SCHEDULE, start=None, degraded=None, **settings) -> torch.Tensor:
    config = SamplerConfig(name=name, **{"clip": False, **settings})
    x_T = images(0) if start is None else start
    return SAMPLERS[name](schedule, "epsilon", config).sample(predictor, degraded, lambda draw: x_T)


def on_ladder(name: str, ladder: list[int], monkeypatch) -> torch.Tensor:
    monkeypatch.setattr("restore_diff.diffusion.schedule.timestep_ladder", lambda *_: ladder)
    return sample(name, num_steps=len(ladder))


def sigmas(ladder: list[int]) -> torch.Tensor:
    alpha_bar = SCHEDULE.alpha_bar[ladder]
    return torch.cat([((1 - alpha_bar) / alpha_bar).sqrt(), torch.zeros(1, dtype=torch.float64)])


@pytest.mark.parametrize("ladder", LADDERS, ids=len)
@pytest.mark.parametrize(
    "name, scheduler, options",
    [
        ("dpm++2m", "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}),
        ("unipc", "UniPCMultistepScheduler", {"solver_type": "bh2", "final_sigmas_type": "zero"}),
    ],
)
def test_multistep_solvers_equal_those_of_diffusers_on_any_ladder(name, scheduler, options, ladder, monkeypatch):
    oracle = getattr(diffusers, scheduler)(**LINEAR, solver_order=2, **options)
    oracle.set_timesteps(len(ladder))
    oracle.timesteps, oracle.sigmas = torch.tensor(ladder), sigmas(ladder)
    x_t = images(0)
    for t in oracle.timesteps:
        x_t = oracle.step(predict(x_t, t.expand(2), None), t, x_t).prev_sample.double()
    # diffusers rounds the state of DPM-Solver++ to float32 in between
    tolerance = 2e-5 if name == "dpm++2m" else 1e-10
    torch.testing.assert_close(on_ladder(name, ladder, monkeypatch), x_t, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("ladder", LADDERS, ids=len)
def test_heun_equals_that_of_diffusers(ladder, monkeypatch):
    oracle = diffusers.HeunDiscreteScheduler(**LINEAR)
    oracle.set_timesteps(len(ladder))
    levels_twice = torch.cat([sigmas(ladder)[:1], sigmas(ladder)[1:-1].repeat_interleave(2), torch.zeros(1)])
    times_twice = torch.tensor(ladder[:1] + [t for t in ladder[1:] for _ in range(2)])
    oracle.sigmas, oracle.timesteps = levels_twice, times_twice
    signal = SCHEDULE.alpha_bar[ladder[0]].sqrt()
    x = images(0) / signal
    oracle._step_index = 0
    for sigma, t in zip(levels_twice, times_twice, strict=False):
        x = oracle.step(predict(x / (sigma**2 + 1).sqrt(), t.expand(2), None), t, x).prev_sample
    torch.testing.assert_close(on_ladder("heun", ladder, monkeypatch), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name, order", [("ddim", 1), ("dpm++2m", 2), ("unipc", 3), ("heun", 2)])
def test_a_solver_converges_at_its_order(name, order):
    """The last step to no noise is left out: the error is looked at where the noise is still 0.2 of the whole.

    UniPC's corrector makes its order 2 an order 3 (Zhao et al., 2023).
    """
    schedule = NoiseSchedule(ScheduleConfig(num_timesteps=16384))
    x_T = torch.linspace(-2, 2, 5, dtype=torch.float64).view(1, 1, 1, 5)
    asked: list[tuple[torch.Tensor, int]] = []

    def ideal(x_t, t, degraded):
        asked.append((x_t, int(t[0])))
        signal, noise = schedule.signal(t, x_t), schedule.noise(t, x_t)
        return noise * (x_t - signal * MEAN) / (signal**2 * SPREAD**2 + noise**2)

    def standing(x_t, t):
        """Along the probability flow this is constant."""
        alpha_bar = schedule.alpha_bar[t]
        return (x_t - alpha_bar.sqrt() * MEAN) / (alpha_bar * SPREAD**2 + 1 - alpha_bar).sqrt()

    errors = []
    for num_steps in (128, 256, 512):
        asked.clear()
        sample(name, ideal, schedule, x_T, num_steps=num_steps, spacing="logsnr")
        x_t, t = next((x_t, t) for x_t, t in asked if schedule.alpha_bar[t] > 0.96)
        errors.append((standing(x_t, t) - standing(x_T, 16383)).abs().max().item())
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.25)


@pytest.mark.parametrize("name", ["dpm++2m", "unipc", "heun"])
def test_order_2_is_nearer_to_the_exact_flow_than_ddim_at_ten_steps(name):
    exact = sample("ddim", num_steps=1000)
    errors = {n: (sample(n, num_steps=10, spacing="logsnr") - exact).abs().mean().item() for n in ("ddim", name)}
    assert errors[name] < 0.5 * errors["ddim"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_of_any_solver_is_the_clean_estimate(name):
    torch.testing.assert_close(sample(name, num_steps=1), sample("ddim", num_steps=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("spacing", ["logsnr", "karras"])
@pytest.mark.parametrize("num_timesteps", [2, 7, 100])
@pytest.mark.parametrize("alpha_bar", [SCHEDULE.alpha_bar, COSINE.alpha_bar], ids=["linear", "cosine"])
def test_an_uneven_ladder_has_exactly_the_steps_asked_for_all_different_and_falling(spacing, num_timesteps, alpha_bar):
    alpha_bar = alpha_bar[:: 1000 // num_timesteps][:num_timesteps]
    for num_steps in range(1, num_timesteps + 1):
        ladder = snr_ladder(spacing, num_steps, alpha_bar)
        assert len(ladder) == num_steps
        assert all(later < earlier for earlier, later in itertools.pairwise(ladder))
        assert ladder[0] == num_timesteps - 1
        assert num_steps == 1 or ladder[-1] == 0


def test_uneven_ladders_are_even_in_what_their_name_says():
    sigma = (1 / SCHEDULE.alpha_bar - 1).sqrt()
    for spacing, position in (("logsnr", sigma.log()), ("karras", sigma ** (1 / 7))):
        gaps = -position[snr_ladder(spacing, 8, SCHEDULE.alpha_bar)].diff()
        torch.testing.assert_close(gaps, gaps.mean().expand(7), rtol=0.12, atol=0)


def test_starting_from_the_degraded_image_noises_it_to_the_first_level():
    asked = []
    degraded = images(7)
    sample("ddim", lambda x_t, t, _: asked.append((x_t, t)) or x_t * 0, degraded=degraded, start_t=399, num_steps=4)
    alpha_bar = SCHEDULE.alpha_bar[399]
    x_t = alpha_bar.sqrt() * degraded + (1 - alpha_bar).sqrt() * images(0)
    torch.testing.assert_close(asked[0][0], x_t, rtol=0, atol=1e-12)
    assert [int(t[0]) for _, t in asked] == [399, 299, 199, 99]


def test_stopping_early_gives_the_clean_estimate_of_the_level_where_it_stops():
    asked = []
    stopped = sample("ddim", lambda x_t, t, _: asked.append((x_t, t)) or predict(x_t, t, _), num_steps=10, stop_t=400)
    x_t, t = asked[-1]
    signal, noise = SCHEDULE.signal(t, x_t), SCHEDULE.noise(t, x_t)
    assert [int(t[0]) for _, t in asked] == [999, 899, 799, 699, 599, 499, 399]
    torch.testing.assert_close(stopped, (x_t - noise * predict(x_t, t, None)) / signal, rtol=0, atol=1e-12)


def test_every_ladder_ends_where_no_noise_is_left():
    for settings in ({}, {"stop_t": 500}, {"start_t": 300}, {"spacing": "karras"}):
        assert levels(SCHEDULE, SamplerConfig(**settings))[-1] == NO_NOISE_LEFT


@pytest.mark.parametrize("name", ["dpm++2m", "unipc", "heun"])
def test_noise_along_the_way_is_ddims_alone(name):
    with pytest.raises(ValueError, match="eta is noise that ddim adds"):
        SamplerConfig(name=name, eta=0.5)


def test_a_start_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="start_t must be less than num_timesteps=1000, got 1000"):
        levels(SCHEDULE, SamplerConfig(start_t=1000))
    with pytest.raises(ValueError, match="stop_t must be less than start_t=100"):
        SamplerConfig(start_t=100, stop_t=100)
    with pytest.raises(ValueError, match="degraded is None"):
        sample("ddim", start_t=300, num_steps=2)
