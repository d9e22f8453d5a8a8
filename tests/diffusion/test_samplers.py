"""Facts about the ladders and the samplers: formulas written out anew, ideal predictors, diffusers' schedulers."""

import itertools

import pytest
import torch

from restore_diff.diffusion.samplers import SAMPLERS, DDIMSampler
from restore_diff.diffusion.schedule import NoiseSchedule, levels, snr_ladder, timestep_ladder
from restore_diff.settings import SamplerConfig, ScheduleConfig

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.*", "ignore::FutureWarning:diffusers.*")

SCHEDULE = NoiseSchedule(ScheduleConfig())
COSINE = NoiseSchedule(ScheduleConfig(name="cosine"))
MEAN, SPREAD = 0.2, 0.5  # of the Gaussian images that the ideal predictor knows
LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
NAMES = {"epsilon": "epsilon", "clean": "sample", "velocity": "v_prediction"}
LADDERS = [[999, 749, 499, 249], [999, 799, 399, 99, 9], [900, 630, 500, 380, 200, 120, 55, 20, 3]]


def images(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sampler(kind="epsilon", schedule: NoiseSchedule = SCHEDULE, **settings) -> DDIMSampler:
    return DDIMSampler(schedule, kind, SamplerConfig(**settings))


class Ideal:
    """Returns what a perfect network would, for images drawn from N(MEAN, SPREAD^2), and keeps what it was asked."""

    def __init__(self, kind, output_of, schedule: NoiseSchedule = SCHEDULE):
        self.kind, self.output_of, self.schedule = kind, output_of, schedule
        self.asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def clean(self, x_t, t):
        signal, noise = self.schedule.signal(t, x_t), self.schedule.noise(t, x_t)
        gain = signal * SPREAD**2 / (signal**2 * SPREAD**2 + noise**2)
        return MEAN + gain * (x_t - signal * MEAN)

    def __call__(self, x_t, t, degraded):
        self.asked.append((x_t, t))
        signal, noise = self.schedule.signal(t, x_t), self.schedule.noise(t, x_t)
        clean = self.clean(x_t, t)
        return self.output_of(self.kind, clean, (x_t - signal * clean) / noise, signal, noise, degraded)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("num_timesteps", [2, 7, 100, 1000])
def test_a_ladder_has_exactly_the_steps_asked_for_all_different_and_falling(spacing, num_timesteps):
    for num_steps in range(2, num_timesteps + 1):
        ladder = timestep_ladder(spacing, num_steps, num_timesteps)
        assert len(ladder) == num_steps
        assert all(later < earlier for earlier, later in itertools.pairwise(ladder))
        assert (ladder[0] == num_timesteps - 1) or spacing == "leading"
        assert (ladder[-1] == 0) if spacing != "trailing" else (0 <= ladder[-1] <= num_timesteps / num_steps - 0.5)
    assert timestep_ladder(spacing, num_timesteps, num_timesteps) == list(reversed(range(num_timesteps)))


@pytest.mark.parametrize("spacing, num_steps", [("trailing", 0), ("leading", 1001), ("linspace", 1), ("trailing", -3)])
def test_a_ladder_that_does_not_exist_is_refused(spacing, num_steps):
    with pytest.raises(ValueError, match=rf"num_timesteps=1000, got {num_steps}"):
        timestep_ladder(spacing, num_steps, 1000)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_every_kind_of_prediction_gives_the_same_sample(kind, clip, eta, output_of):
    settings = {"num_steps": 9, "clip": clip, "eta": eta}
    degraded = images(100)
    sample = sampler(kind, **settings).sample(Ideal(kind, output_of), degraded, images)
    expected = sampler("clean", **settings).sample(Ideal("clean", output_of), None, images)
    torch.testing.assert_close(sample, expected, rtol=0, atol=1e-12)


def test_the_predictor_is_asked_once_per_rung_with_t_as_int64_of_the_batch(output_of):
    ideal = Ideal("clean", output_of)
    sampler("clean", num_steps=6).sample(ideal, None, images)
    ladder = timestep_ladder("trailing", 6, 1000)
    assert [t.tolist() for _, t in ideal.asked] == [[rung, rung] for rung in ladder]
    assert all(t.dtype == torch.int64 for _, t in ideal.asked)
    assert torch.equal(ideal.asked[0][0], images(0))


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_eta_1_takes_the_ancestral_step_of_ddpm(spacing, output_of):
    ideal = Ideal("clean", output_of)
    sample = sampler("clean", num_steps=15, spacing=spacing, eta=1.0, clip=False).sample(ideal, None, images)
    for draw, ((x_t, t), (x_next, t_next)) in enumerate(itertools.pairwise(ideal.asked), start=1):
        alpha_bar, alpha_bar_next = SCHEDULE.alpha_bar[t[0]], SCHEDULE.alpha_bar[t_next[0]]
        alpha = alpha_bar / alpha_bar_next
        beta = 1 - alpha
        # Ho et al. (2020), eq. 6 and 7, between neighbours of the ladder.
        mean = alpha_bar_next.sqrt() * beta / (1 - alpha_bar) * ideal.clean(x_t, t)
        mean = mean + alpha.sqrt() * (1 - alpha_bar_next) / (1 - alpha_bar) * x_t
        variance = (1 - alpha_bar_next) / (1 - alpha_bar) * beta
        torch.testing.assert_close(x_next, mean + variance.sqrt() * images(draw), rtol=0, atol=1e-12)
    torch.testing.assert_close(sample, ideal.clean(*ideal.asked[-1]), rtol=0, atol=1e-12)


def test_the_last_step_leaves_no_noise_and_draws_none(output_of):
    for eta, expected_draws in ((0.0, [0]), (0.5, [0, 1, 2, 3])):
        draws = []
        ideal = Ideal("clean", output_of)
        sample = sampler("clean", num_steps=4, eta=eta, clip=False).sample(
            ideal, None, lambda draw, draws=draws: draws.append(draw) or images(draw)
        )
        assert torch.equal(sample, ideal.clean(*ideal.asked[-1]))
        assert draws == expected_draws


def test_clipping_bounds_the_clean_image_and_derives_the_noise_anew():
    asked = []

    def far_out(x_t, t, degraded):
        asked.append(x_t)
        return torch.full_like(x_t, 3.0)

    sample = sampler("clean", num_steps=2).sample(far_out, None, images)
    signal, noise = SCHEDULE.alpha_bar[999].sqrt(), (1 - SCHEDULE.alpha_bar[999]).sqrt()
    next_signal, next_noise = SCHEDULE.alpha_bar[499].sqrt(), (1 - SCHEDULE.alpha_bar[499]).sqrt()
    torch.testing.assert_close(asked[1], next_signal + next_noise * (images(0) - signal) / noise, rtol=0, atol=1e-12)
    assert torch.equal(sample, torch.ones_like(sample))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_predictor_of_lower_precision_keeps_a_float32_state(kind, dtype):
    degraded, seen = images(100, torch.float32), []

    def noise(draw):
        return images(draw, torch.float32)

    def low(x_t, t, degraded):
        seen.append(x_t.dtype)
        return torch.tanh(x_t).to(dtype)

    sample = sampler(kind, num_steps=5, eta=0.3).sample(low, degraded, noise)
    same = sampler(kind, num_steps=5, eta=0.3).sample(lambda *a: low(*a).float(), degraded, noise)
    assert set(seen) == {torch.float32}
    assert sample.dtype == torch.float32
    assert torch.equal(sample, same)


def test_noise_of_lower_precision_starts_a_float32_state():
    sample = sampler(num_steps=2, eta=1.0).sample(
        lambda x_t, *_: x_t.tanh(), None, lambda draw: images(draw, torch.bfloat16)
    )
    assert sample.dtype == torch.float32


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_float32_sample_is_that_of_float64_to_rounding(kind, eta, output_of):
    double, single = (
        sampler(kind, num_steps=10, eta=eta).sample(
            Ideal(kind, output_of), images(100, dtype), lambda draw, dtype=dtype: images(draw, dtype)
        )
        for dtype in (torch.float64, torch.float32)
    )
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


def test_sampling_is_deterministic_and_images_of_a_batch_do_not_meet(kind, output_of):
    degraded = images(100)
    ddim = sampler(kind, num_steps=5, eta=0.5)
    batch = ddim.sample(Ideal(kind, output_of), degraded, images)
    torch.manual_seed(3)
    assert torch.equal(ddim.sample(Ideal(kind, output_of), degraded, images), batch)
    alone = ddim.sample(Ideal(kind, output_of), degraded[1:], lambda draw: images(draw)[1:])
    torch.testing.assert_close(alone, batch[1:], rtol=0, atol=1e-14)


def test_the_loop_reads_nothing_back_from_the_device(kind):
    # The meta device holds no numbers: asking for one, as .item() or a branch on a tensor would, raises.
    def noise(draw):
        return torch.empty(2, 3, 8, 8, device="meta")

    sample = sampler(kind, num_steps=5, eta=0.5).sample(
        lambda x_t, t, degraded: x_t * t.view(2, 1, 1, 1), noise(0), noise
    )
    assert sample.device.type == "meta"


@pytest.mark.gpu
def test_the_loop_never_waits_for_a_cuda_device(kind):
    draws = [images(draw, torch.float32).cuda() for draw in range(6)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        sample = sampler(kind, num_steps=5, eta=0.5).sample(lambda x_t, t, degraded: x_t, draws[5], draws.__getitem__)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sample.shape == draws[5].shape and sample.isfinite().all()


# Against diffusers, an independent implementation, in float64.


def predict(x_t: torch.Tensor, t: torch.Tensor, degraded: torch.Tensor | None) -> torch.Tensor:
    shift = 0.3 if degraded is None else 0.5 * degraded
    return torch.tanh(x_t + shift) * (0.5 + t.view(-1, 1, 1, 1) / 2000)


@pytest.mark.parametrize("num_steps", [2, 3, 4, 7, 10, 15, 25, 30, 333, 600, 1000])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_ladders_equal_those_of_diffusers(spacing, num_steps):
    oracle = diffusers.DDIMScheduler(**LINEAR, timestep_spacing=spacing)
    oracle.set_timesteps(num_steps)
    assert timestep_ladder(spacing, num_steps, 1000) == oracle.timesteps.tolist()


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("spacing, num_steps", [("leading", 7), ("leading", 30), ("trailing", 25)])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_equals_that_of_diffusers(kind, spacing, num_steps, eta, clip):
    """diffusers' DDIM is right where each step is T // num_steps long, which it takes for granted."""
    options = {"timestep_spacing": spacing, "prediction_type": NAMES[kind], "clip_sample": clip}
    oracle = diffusers.DDIMScheduler(**LINEAR, **options, set_alpha_to_one=True)
    oracle.alphas_cumprod, oracle.final_alpha_cumprod = SCHEDULE.alpha_bar, torch.tensor(1.0, dtype=torch.float64)
    oracle.set_timesteps(num_steps)
    x_t = images(0)
    for draw, t in enumerate(oracle.timesteps, start=1):
        output, noise = predict(x_t, t.expand(2), images(100)), images(draw) if eta else None
        x_t = oracle.step(output, t, x_t, eta, use_clipped_model_output=clip, variance_noise=noise).prev_sample
    ddim = sampler(kind, spacing=spacing, num_steps=num_steps, eta=eta, clip=clip)
    torch.testing.assert_close(ddim.sample(predict, images(100), images), x_t, rtol=1e-10, atol=1e-10)


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
def test_a_solver_converges_at_its_order(name, order, output_of):
    """The last step to no noise is left out: the error is looked at where the noise is still 0.2 of the whole.

    UniPC's corrector makes its order 2 an order 3 (Zhao et al., 2023).
    """
    schedule = NoiseSchedule(ScheduleConfig(num_timesteps=16384))
    x_T = torch.linspace(-2, 2, 5, dtype=torch.float64).view(1, 1, 1, 5)
    ideal = Ideal("epsilon", output_of, schedule)

    def standing(x_t, t):
        """Along the probability flow this is constant."""
        alpha_bar = schedule.alpha_bar[t]
        return (x_t - alpha_bar.sqrt() * MEAN) / (alpha_bar * SPREAD**2 + 1 - alpha_bar).sqrt()

    errors = []
    for num_steps in (128, 256, 512):
        ideal.asked.clear()
        sample(name, ideal, schedule, x_T, num_steps=num_steps, spacing="logsnr")
        x_t, t = next((x_t, t[0]) for x_t, t in ideal.asked if schedule.alpha_bar[t[0]] > 0.96)
        errors.append((standing(x_t, t) - standing(x_T, 16383)).abs().max().item())
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.25)


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
