"""Facts about the ladders and DDIM, from formulas written out anew and predictors known in closed form."""

import itertools

import pytest
import torch

from restore_diff.diffusion.samplers import DDIMSampler
from restore_diff.diffusion.schedule import NoiseSchedule, timestep_ladder
from restore_diff.settings import SamplerConfig, ScheduleConfig

SCHEDULE = NoiseSchedule(ScheduleConfig())
MEAN, SPREAD = 0.2, 0.5  # of the Gaussian images that the ideal predictor knows


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


def test_ladders_have_the_published_entries():
    assert timestep_ladder("trailing", 10, 1000) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert timestep_ladder("leading", 10, 1000) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert timestep_ladder("linspace", 10, 1000) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert timestep_ladder("trailing", 4, 1000) == [999, 749, 499, 249]
    assert timestep_ladder("trailing", 3, 1000) == [999, 666, 332]
    assert timestep_ladder("linspace", 3, 1000) == [999, 500, 0]
    assert timestep_ladder("trailing", 1, 1000) == [999]
    assert timestep_ladder("leading", 3, 1000) == [666, 333, 0]


@pytest.mark.parametrize("num_steps", [1, 2, 4, 5, 8, 10, 20, 25, 50, 100, 1000])
def test_leading_is_the_range_of_weatherdiffusion_where_steps_divide_timesteps(num_steps):
    assert timestep_ladder("leading", num_steps, 1000) == list(reversed(range(0, 1000, 1000 // num_steps)))


@pytest.mark.parametrize("spacing, num_steps", [("trailing", 0), ("leading", 1001), ("linspace", 1), ("trailing", -3)])
def test_a_ladder_that_does_not_exist_is_refused(spacing, num_steps):
    with pytest.raises(ValueError, match=rf"num_timesteps=1000, got {num_steps}"):
        timestep_ladder(spacing, num_steps, 1000)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddim_converges_to_the_exact_solution_at_first_order(name, output_of):
    schedule = NoiseSchedule(ScheduleConfig(name=name, num_timesteps=16384))
    x_T = torch.linspace(-2, 2, 5, dtype=torch.float64).view(1, 5)
    alpha_bar = schedule.alpha_bar[-1]
    # Along the probability flow of Gaussian images (x_t - mean_t) / spread_t is constant.
    exact = MEAN + SPREAD * (x_T - alpha_bar.sqrt() * MEAN) / (alpha_bar * SPREAD**2 + 1 - alpha_bar).sqrt()
    errors = []
    for num_steps in (256, 512, 1024):
        ddim = sampler("epsilon", schedule, num_steps=num_steps, clip=False)
        sample = ddim.sample(Ideal("epsilon", output_of, schedule), None, lambda draw: x_T)
        errors.append((sample - exact).abs().max().item())
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2, abs=0.03)


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


def test_clipping_changes_nothing_within_the_range(kind, output_of):
    degraded = images(100)

    def within(x_t, t, degraded):
        signal, noise = SCHEDULE.signal(t, x_t), SCHEDULE.noise(t, x_t)
        clean = torch.tanh(x_t) * 0.9
        return output_of(kind, clean, (x_t - signal * clean) / noise, signal, noise, degraded)

    clipped = sampler(kind, num_steps=7, clip=True).sample(within, degraded, images)
    torch.testing.assert_close(
        clipped, sampler(kind, num_steps=7, clip=False).sample(within, degraded, images), rtol=0, atol=1e-12
    )


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
        sampler(kind, num_steps=5, eta=0.5).sample(lambda x_t, t, degraded: x_t, draws[5], draws.__getitem__)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_more_steps_than_timesteps_are_refused():
    with pytest.raises(ValueError, match="between 1 and num_timesteps=1000, got 1001"):
        sampler(num_steps=1001)
