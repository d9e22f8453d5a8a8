"""Facts about what a training batch draws: its timesteps and its noise."""

import pytest
import torch

from restore_diff.diffusion.loss import TIMESTEP_DRAWS, draw_noise, draw_timesteps

DRAWS = sorted(TIMESTEP_DRAWS)


def draw(kind: str, total: int, num_timesteps: int = 1000, seed: int = 0, step: int = 0) -> torch.Tensor:
    return draw_timesteps(kind, 0, total, total, num_timesteps, seed, step)


@pytest.mark.parametrize("total", [1, 2, 8, 50, 125])
def test_stratified_timesteps_cover_every_stratum_once(total):
    for step in range(50):
        strata = draw("stratified", total, step=step) // (1000 // total)
        assert torch.equal(strata.sort().values, torch.arange(total))


def test_stratified_timesteps_are_equally_spaced():
    for step in range(20):
        gaps = draw("stratified", 16, 1024, step=step).sort().values.diff()
        assert (gaps == 64).all()


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
