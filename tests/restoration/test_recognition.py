"""Each image is looked at before it is restored, and restored by what was seen."""

import torch

from restore_diff.diffusion.samplers import DDIMSampler
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.restoration.recognition import WINDOW_PX, Recognition
from restore_diff.restoration.restorer import Restorer, Samples
from restore_diff.settings import SamplerConfig, ScheduleConfig, TilingConfig

CPU = torch.device("cpu")


class Spy:
    """Takes a bright image for hazy, and any other for rainy."""

    def __init__(self):
        self.seen, self.told_hints = [], []

    def recognise(self, x_t, t, degraded):
        self.seen.append((x_t, t, degraded))
        hazy, rainy = torch.tensor([-1.0, -4, 4, -1, -1]), torch.tensor([-1.0, 40, -40, -1, -1])
        return torch.stack([hazy if bright else rainy for bright in degraded.mean((1, 2, 3)) > 0])

    def told(self, hint):
        self.told_hints.append(hint.tolist())
        return lambda x_t, t, degraded: torch.full_like(degraded, -1.0 if hint[0, 1] else 1.0) + 0 * t.view(-1, 1, 1, 1)


def restorer(spy, samples=1):
    sampler = DDIMSampler(NoiseSchedule(ScheduleConfig()), "clean", SamplerConfig(num_steps=1))
    recognition = Recognition(spy.recognise, spy.told, 999, 16, CPU)
    unused = None
    return Restorer(
        unused, sampler, TilingConfig(tile_size_px=0), 16, CPU, "float32", Samples(samples, True), recognition
    )


def test_images_of_a_batch_are_looked_at_one_by_one():
    spy = Spy()
    batch = torch.stack([torch.full((3, 20, 30), 0.9), torch.full((3, 20, 30), 0.1)])
    restored = restorer(spy).restore(batch, ["a", "b"])
    assert spy.told_hints == [[[0, 0, 1, 0, 0]], [[0, 1, 0, 0, 0]]]
    assert restored[0].eq(1).all() and restored[1].eq(0).all()


def test_all_samples_of_an_image_are_told_the_same_and_it_is_looked_at_once():
    spy = Spy()
    result = restorer(spy, samples=4).restore_with_spread(torch.full((1, 3, 20, 30), 0.9), ["a"])
    assert len(spy.seen) == len(spy.told_hints) == 1
    assert result.images.eq(1).all() and result.spread.eq(0).all()


def test_a_small_image_is_seen_whole_at_the_last_t_as_the_network_needs_it():
    spy, image = Spy(), torch.rand(1, 3, 20, 30)
    restorer(spy).restore(image, ["a"])
    ((x_t, t, seen),) = spy.seen
    assert seen.shape == x_t.shape == (1, 3, 32, 32) and t.tolist() == [999]
    torch.testing.assert_close(seen[..., :20, :30], image * 2 - 1)
    assert abs(x_t.mean()) < 0.1 and abs(x_t.std() - 1) < 0.1


def test_of_a_large_image_nine_windows_reach_its_ends():
    spy = Spy()
    rows, columns = torch.arange(2000.0)[:, None], torch.arange(1500.0)[None]
    image = torch.stack([rows.expand(2000, 1500), columns.expand(2000, 1500), torch.zeros(2000, 1500)])[None] / 2000
    restorer(spy).restore(image, ["a"])
    ((_, _, seen),) = spy.seen
    assert seen.shape == (9, 3, WINDOW_PX, WINDOW_PX)
    ends = (seen + 1) / 2 * 2000
    assert ends[:, 0].min().round() == 0 and ends[:, 0].max().round() == 1999
    assert ends[:, 1].min().round() == 0 and ends[:, 1].max().round() == 1499


def test_it_looks_in_bfloat16_where_the_network_restores_in_it():
    looked = []

    def recognise(x_t, t, degraded):
        looked.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return torch.zeros(len(degraded), 5)

    for bfloat16 in (True, False):
        Recognition(recognise, Spy().told, 999, 16, CPU, bfloat16).logits(torch.rand(1, 3, 16, 16))
    assert looked == [torch.bfloat16, False]


def test_half_a_window_more_than_one_is_seen_by_the_one_in_the_middle():
    spy = Spy()
    columns = torch.arange(470.0).expand(1, 3, 320, 470) / 470
    restorer(spy).restore(columns, ["a"])
    ((_, _, seen),) = spy.seen
    ends = (seen + 1) / 2 * 470
    assert len(seen) == 1 and ends.min().round() == 75 and ends.max().round() == 394


def test_the_belief_is_the_mean_over_the_windows_and_the_surest_counts_no_more_than_98_percent():
    spy = Spy()
    image = torch.full((1, 3, 320, 960), 0.1)
    image[..., :320] = 0.9
    logits = Recognition(spy.recognise, spy.told, 999, 16, CPU).logits(image)
    torch.testing.assert_close(logits, torch.tensor([[-1, 4 / 3, -4 / 3, -1, -1]]))
