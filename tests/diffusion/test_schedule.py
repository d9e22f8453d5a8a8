"""Facts about the noise schedules, against published values and formulas written out anew."""

import math

import pytest
import torch

from restore_diff.diffusion.schedule import SCHEDULES, NoiseSchedule
from restore_diff.settings import ScheduleConfig

NAMES = sorted(SCHEDULES)


def schedule(name: str = "linear", num_timesteps: int = 1000, **settings) -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig(name=name, num_timesteps=num_timesteps, **settings))


def test_linear_has_the_published_levels():
    alpha_bar = schedule().alpha_bar
    assert alpha_bar[999].item() == pytest.approx(4.0358e-5, rel=1e-5)
    assert alpha_bar[960].item() == pytest.approx(8.74e-5, rel=1e-3)
    assert alpha_bar[0].item() == pytest.approx(0.9999, abs=1e-15)
    assert (1 - alpha_bar[0].item()) ** 0.5 == pytest.approx(0.01, rel=1e-11)


@pytest.mark.parametrize("name", ["linear", "quadratic"])
@pytest.mark.parametrize("num_timesteps", [100, 250, 4000])
def test_the_last_level_hardly_depends_on_the_number_of_timesteps(name, num_timesteps):
    at_1000 = schedule(name).alpha_bar[-1].log().item()
    assert schedule(name, num_timesteps).alpha_bar[-1].log().item() == pytest.approx(at_1000, rel=0.08)


def test_quadratic_betas_have_equally_spaced_roots():
    betas = SCHEDULES["quadratic"](ScheduleConfig(name="quadratic"))
    first, last = math.sqrt(1e-4), math.sqrt(0.02)
    for t in (0, 1, 500, 998, 999):
        assert betas[t].item() == pytest.approx((first + (last - first) * t / 999) ** 2, rel=1e-13)


def test_cosine_follows_the_squared_cosine_up_to_its_cap():
    alpha_bar = schedule("cosine").alpha_bar

    def published(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 1, 10, 500, 990, 998):
        assert alpha_bar[t].item() == pytest.approx(published((t + 1) / 1000) / published(0), rel=1e-11)
    assert alpha_bar[999].item() == pytest.approx(alpha_bar[998].item() * 0.001, rel=1e-12)
    assert alpha_bar[999].item() == pytest.approx(2.4e-9, rel=0.02)


def test_sigmoid_follows_the_sigmoid_of_minus_3_to_3_up_to_its_cap():
    alpha_bar = schedule("sigmoid").alpha_bar

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    for t in (0, 1, 10, 499, 990, 998):
        time = (t + 1) / 1000
        published = (sigmoid(3) - sigmoid(time * 6 - 3)) / (sigmoid(3) - sigmoid(-3))
        assert alpha_bar[t].item() == pytest.approx(published, rel=1e-11)
    assert alpha_bar[499].item() == pytest.approx(0.5, rel=1e-12)
    assert alpha_bar[999].item() == pytest.approx(alpha_bar[998].item() * 0.001, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_timesteps", [50, 1000, 4000])
def test_levels_are_float64_and_fall_strictly_between_1_and_0(name, num_timesteps):
    alpha_bar = schedule(name, num_timesteps).alpha_bar
    assert alpha_bar.dtype == torch.float64
    assert alpha_bar.shape == (num_timesteps,)
    assert alpha_bar[0] < 1 and alpha_bar[-1] > 0
    assert (alpha_bar.diff() < 0).all()


def test_a_beta_of_1_or_more_is_refused_with_its_value():
    with pytest.raises(ValueError, match=r"below 1, got 2 .*num_timesteps=10"):
        schedule("linear", 10)
    with pytest.raises(ValueError, match="below 1, got 1 "):
        schedule("quadratic", 20)


@pytest.mark.parametrize("shape", [(3, 5), (3, 3, 4, 4), (3, 2, 2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_of_a_batch_fit_its_samples(shape, dtype):
    linear = schedule()
    t = torch.tensor([0, 500, 999])
    like = torch.zeros(shape, dtype=dtype)
    for level in (linear.signal(t, like), linear.noise(t, like), linear.snr(t, like)):
        assert level.shape == (3, *[1] * (len(shape) - 1))
        assert level.dtype == dtype
    expected = linear.alpha_bar[t].to(dtype).view(-1, *[1] * (len(shape) - 1))
    torch.testing.assert_close(linear.signal(t, like) ** 2, expected)
    torch.testing.assert_close(linear.noise(t, like) ** 2, 1 - expected)


@pytest.mark.parametrize("name", NAMES)
def test_levels_in_float32_are_those_of_float64_rounded_once(name):
    levels = schedule(name)
    t = torch.arange(1000)
    single, double = torch.zeros(1000, 1), torch.zeros(1000, 1, dtype=torch.float64)
    for level in (levels.signal, levels.noise, levels.snr):
        assert torch.equal(level(t, single), level(t, double).float())
    alpha_bar = levels.alpha_bar.view(-1, 1)
    torch.testing.assert_close(levels.snr(t, double), alpha_bar / (1 - alpha_bar), rtol=1e-15, atol=0)
