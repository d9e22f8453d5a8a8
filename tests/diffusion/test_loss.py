"""Facts about the forward process, the loss, and what a training batch draws: its timesteps and its noise."""

import pytest
import torch

from restore_diff.diffusion.loss import TIMESTEP_DRAWS, GaussianDiffusion, draw_noise, draw_timesteps
from restore_diff.diffusion.prediction import estimate
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.settings import DiffusionConfig, ScheduleConfig

SCHEDULE = NoiseSchedule(ScheduleConfig())
T = torch.tensor([0, 1, 500, 998, 999])
WEIGHTINGS = {
    "none": ({}, lambda snr: torch.ones_like(snr)),
    "min_snr": ({"weighting": "snr_clamp"}, lambda snr: torch.minimum(snr, torch.full_like(snr, 5)) / snr),
    "snr_clamp": (
        {"weighting": "snr_clamp", "snr_min": 1.0, "snr_max": 5.0},
        lambda snr: torch.where(snr < 1, 1 / snr, torch.where(snr > 5, 5 / snr, torch.ones_like(snr))),
    ),
    "p2": ({"weighting": "p2", "p2_k": 2.0, "p2_gamma": 0.5}, lambda snr: 1 / torch.sqrt(2 + snr)),
}


def images(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (5, 3, 4, 4), generator=generator, dtype=torch.float64).to(dtype)


def diffusion(**settings) -> GaussianDiffusion:
    return GaussianDiffusion(SCHEDULE, DiffusionConfig(**settings))


def levels(t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    alpha_bar = SCHEDULE.alpha_bar[t].to(like.dtype).view(-1, *[1] * (like.ndim - 1))
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def test_x_t_is_exactly_signal_times_clean_plus_noise_times_epsilon():
    clean, epsilon = images(0), images(1)
    signal, noise = levels(T, clean)
    x_t = diffusion().add_noise(clean, T, epsilon)
    torch.testing.assert_close(x_t, signal * clean + noise * epsilon, rtol=0, atol=1e-14)


def test_the_output_for_true_noise_has_loss_0_in_float32(kind, output_of):
    clean, epsilon, degraded = (images(seed, dtype=torch.float32) for seed in range(3))
    signal, noise = SCHEDULE.signal(T, clean), SCHEDULE.noise(T, clean)
    output = output_of(kind, clean, epsilon, signal, noise, degraded)
    loss = diffusion(prediction=kind).loss(lambda *_: output, clean, degraded, T, epsilon)
    # Exact but for a residual, which is rounded where it is added: 6e-8 in the clean image, 100 times that in epsilon.
    assert loss.max() <= (1e-10 if kind == "residual" else 0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 4, 4), (5, 2, 3, 4, 4)])
def test_the_loss_is_the_weighted_squared_error_of_epsilon(kind, weighting, shape):
    settings, weight = WEIGHTINGS[weighting]
    clean, epsilon, degraded, output = (images(seed, *shape) for seed in range(4))
    signal, noise = levels(T, clean)
    read = estimate(kind, output, signal * clean + noise * epsilon, signal, noise, degraded)
    expected = (weight(signal**2 / noise**2) * (epsilon - read.epsilon) ** 2).flatten(1).mean(1)
    loss = diffusion(prediction=kind, **settings).loss(lambda *_: output, clean, degraded, T, epsilon)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_loss_in_float32_stays_accurate_at_both_ends(kind, weighting, schedule, output_of):
    settings = WEIGHTINGS[weighting][0]
    levels = NoiseSchedule(ScheduleConfig(name=schedule))
    end = GaussianDiffusion(levels, DiffusionConfig(prediction=kind, **settings))
    clean, epsilon, degraded = (images(seed, dtype=torch.float32) for seed in range(3))
    truth = output_of(kind, clean, epsilon, levels.signal(T, clean), levels.noise(T, clean), degraded)
    output = truth + 0.01 * images(3, dtype=torch.float32)  # a good network: its error is small against x_t
    loss = end.loss(lambda *_: output, clean, degraded, T, epsilon)
    exact = end.loss(lambda *_: output.double(), clean.double(), degraded.double(), T, epsilon.double())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


def test_clamping_bounds_out_of_order_are_refused():
    with pytest.raises(ValueError, match=r"snr_min must be at most snr_max, got 6.0 and 5.0"):
        DiffusionConfig(weighting="snr_clamp", snr_min=6.0, snr_max=5.0)


@pytest.mark.parametrize("error, expected", [(0.05, 0.05**2 / 2), (-0.2, 0.2**2 / 2), (3.0, 0.2 * 2.9)])
def test_huber_is_half_the_square_within_delta_and_linear_beyond(error, expected):
    clean, epsilon = images(0), images(1)
    loss = diffusion(loss="huber", huber_delta=0.2).loss(lambda *_: epsilon + error, clean, None, T, epsilon)
    torch.testing.assert_close(loss, torch.full_like(loss, expected), rtol=1e-10, atol=0)


def test_huber_penalises_the_weighted_error():
    clean, epsilon = images(0), images(1)
    huber = diffusion(loss="huber", huber_delta=0.2, weighting="p2", p2_k=1.0, p2_gamma=1.0)
    loss = huber.loss(lambda *_: epsilon + 1, clean, None, T, epsilon)
    error = (1 - SCHEDULE.alpha_bar[T]).sqrt()  # 1 / (1 + SNR) is the variance of the noise
    expected = torch.where(error < 0.2, error**2 / 2, 0.2 * (error - 0.1))
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)


def test_the_predictor_sees_x_t_its_t_and_the_degraded_image():
    clean, epsilon, degraded = images(0), images(1), images(2)
    seen = []
    diffusion().loss(lambda *arguments: seen.append(arguments) or epsilon, clean, degraded, T, epsilon)
    [(x_t, t, condition)] = seen
    assert torch.equal(x_t, diffusion().add_noise(clean, T, epsilon))
    assert torch.equal(t, T)
    assert condition is degraded


def test_a_loss_of_bfloat16_output_is_float32_and_trains_it(kind):
    clean, epsilon, degraded = (images(seed, dtype=torch.float32) for seed in range(3))
    output = images(3, dtype=torch.bfloat16).requires_grad_()
    loss = diffusion(prediction=kind).loss(lambda *_: output, clean, degraded, T, epsilon)
    loss.mean().backward()
    assert loss.dtype == torch.float32
    assert output.grad is not None and output.grad.isfinite().all() and output.grad.abs().amin((1, 2, 3)).min() > 0


@pytest.mark.gpu
def test_a_loss_never_waits_for_a_cuda_device(kind):
    clean, degraded, t = torch.zeros(5, 3, 8, 8, device="cuda"), torch.ones(5, 3, 8, 8, device="cuda"), T.cuda()
    training = diffusion(prediction=kind, weighting="snr_clamp", snr_min=1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = training.loss(lambda x_t, t, degraded: x_t, clean, degraded, t, draw_noise(clean, range(5), seed=0))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.shape == (5,) and loss.isfinite().all()


def test_a_relative_loss_counts_each_sample_by_how_much_of_its_degradation_stays():
    clean, epsilon, degraded = images(0), images(1), images(2)
    weighting = {"prediction": "residual", "weighting": "snr_clamp", "snr_min": 1.0}

    def untrained(x_t, t, degraded):
        return torch.zeros_like(x_t)

    plain = diffusion(**weighting).loss(untrained, clean, degraded, T, epsilon)
    relative = diffusion(**weighting, relative_floor=0.25).loss(untrained, clean, degraded, T, epsilon)
    power = (degraded - clean).square().mean((1, 2, 3))
    torch.testing.assert_close(relative, plain / (power + 0.25), rtol=1e-12, atol=0)
    light = clean + 1e-3 * (degraded - clean)  # where the weight is 1, nothing restored is a loss of 1, light or heavy
    late, tiny = T[3:], diffusion(**weighting, relative_floor=1e-12)
    for given in (degraded, light):
        found = tiny.loss(untrained, clean[3:], given[3:], late, epsilon[3:])
        torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64), rtol=1e-4, atol=0)


DRAWS = sorted(TIMESTEP_DRAWS)


def draw(kind: str, total: int, num_timesteps: int = 1000, seed: int = 0, step: int = 0) -> torch.Tensor:
    return draw_timesteps(kind, 0, total, total, num_timesteps, seed, step)


@pytest.mark.parametrize("total", [1, 2, 8, 50, 125])
def test_stratified_timesteps_cover_every_stratum_once(total):
    for step in range(50):
        strata = draw("stratified", total, step=step) // (1000 // total)
        assert torch.equal(strata.sort().values, torch.arange(total))


def test_neighbours_in_a_batch_get_unrelated_strata():
    batches = torch.stack([draw("stratified", 4, step=step) for step in range(600)])
    distance = (batches[:, 1] - batches[:, 0]) % 1000 // 250
    assert distance.bincount(minlength=4)[1:].min() > 150  # of 200 each


@pytest.mark.parametrize("total", [2, 8, 9])
def test_antithetic_pairs_sum_to_the_last_timestep(total):
    t = draw("antithetic", total)
    pairs = t[: total // 2 * 2].view(-1, 2)
    assert (pairs.sum(1) == 999).all()
    assert len(t) == total


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("total, parts", [(12, [12]), (12, [6, 6]), (12, [3, 3, 3, 3]), (13, [5, 5, 3])])
def test_the_parts_of_a_batch_make_up_the_whole(kind, total, parts):
    first, drawn = 0, []
    for num in parts:
        drawn.append(draw_timesteps(kind, first, num, total, 1000, seed=3, step=7))
        first += num
    assert torch.equal(torch.cat(drawn), draw(kind, total, seed=3, step=7))


@pytest.mark.parametrize("kind", DRAWS)
def test_the_timesteps_of_a_step_depend_on_the_seed_and_the_step_alone(kind):
    torch.manual_seed(0)
    once = draw(kind, 64, seed=1, step=2)
    torch.manual_seed(1)
    assert torch.equal(draw(kind, 64, seed=1, step=2), once)
    assert not torch.equal(draw(kind, 64, seed=1, step=3), once)
    assert not torch.equal(draw(kind, 64, seed=2, step=2), once)


@pytest.mark.parametrize("total", [1, 2, 8])
def test_late_timesteps_are_half_the_last_one(total):
    t = torch.stack([draw("late", total, 10, step=step) for step in range(4000)])
    shares = torch.stack([t[:, place].bincount(minlength=10) for place in range(total)]) / 4000
    expected = torch.tensor([0.05] * 9 + [0.55])
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / 4000).sqrt()).all()
    if total > 1:
        assert ((t == 9).sum(1) >= total // 2).all()


@pytest.mark.parametrize("kind", ["antithetic", "stratified"])
def test_every_sample_meets_every_noise_level_equally_often(kind):
    t = torch.stack([draw(kind, 4, 10, step=step) for step in range(4000)])
    assert t.dtype == torch.int64
    for position in range(4):
        share = t[:, position].bincount(minlength=10) / 4000
        assert share.shape == (10,)
        assert (share - 0.1).abs().max() < 5 * (0.1 * 0.9 / 4000) ** 0.5


@pytest.mark.parametrize("first, num", [(-1, 2), (3, 2), (0, 5), (2, -1)])
def test_a_part_outside_the_batch_is_refused(first, num):
    with pytest.raises(ValueError, match="total=4"):
        draw_timesteps("stratified", first, num, 4, 1000, seed=0, step=0)


def test_the_noise_of_a_sample_depends_on_the_seed_and_its_position_alone():
    like = torch.zeros(4, 3, 8, 8)
    noise = draw_noise(like, [5, 9, 2, 7], seed=1)
    torch.manual_seed(3)
    assert torch.equal(draw_noise(like[:1], [2], seed=1), noise[2:3])
    assert torch.equal(draw_noise(like[:2] + 1, [7, 5], seed=1), noise[[3, 0]])
    assert torch.equal(draw_noise(like.contiguous(memory_format=torch.channels_last), [5, 9, 2, 7], seed=1), noise)
    assert not torch.equal(draw_noise(like, [5, 9, 2, 7], seed=2), noise)


def test_noise_is_standard_normal_and_unrelated_between_samples():
    noise = draw_noise(torch.zeros(4, 100_000), [0, 1, 2, 3], seed=0)
    assert noise.mean(1).abs().max() < 5 / 100_000**0.5
    torch.testing.assert_close(torch.corrcoef(noise), torch.eye(4), rtol=0, atol=5 / 100_000**0.5)
    assert (noise.std(1) - 1).abs().max() < 0.02


def test_every_sample_needs_a_position():
    with pytest.raises(ValueError):
        draw_noise(torch.zeros(3, 2), [0, 1], seed=0)
