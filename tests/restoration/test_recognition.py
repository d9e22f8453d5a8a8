"""Weather recognition: each image is classified before it is restored, from windows of its pixels."""

import pytest
import torch

from restore_diff.diffusion.samplers import DDIMSampler
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.restoration.recognition import WINDOW_PX, Recognition
from restore_diff.restoration.restorer import Restorer, Samples
from restore_diff.settings import SamplerConfig, ScheduleConfig, TilingConfig

CPU = torch.device("cpu")


class Spy:
    """Classifies a bright image as hazy, and any other as rainy; records its arguments."""

    def __init__(self):
        self.seen, self.labels = [], []

    def recognise(self, x_t, t, degraded):
        self.seen.append((x_t, t, degraded))
        hazy, rainy = torch.tensor([-1.0, -4, 4, -1, -1]), torch.tensor([-1.0, 40, -40, -1, -1])
        return torch.stack([hazy if bright else rainy for bright in degraded.mean((1, 2, 3)) > 0])

    def with_label(self, label):
        self.labels.append(label.tolist())
        return lambda x_t, t, degraded: torch.full_like(degraded, -1.0 if label[0, 1] else 1.0)


@pytest.fixture
def spy():
    return Spy()


def restorer(spy, samples=1):
    sampler = DDIMSampler(NoiseSchedule(ScheduleConfig()), "clean", SamplerConfig(num_steps=1))
    recognition = Recognition(spy.recognise, spy.with_label, 999, 16, CPU)
    tiling, unused = TilingConfig(tile_size_px=0), None
    return Restorer(unused, sampler, tiling, 16, CPU, "float32", Samples(samples, True), recognition)


def test_each_image_of_a_batch_has_its_own_label(spy):
    batch = torch.stack([torch.full((3, 20, 30), 0.9), torch.full((3, 20, 30), 0.1)])
    restored = restorer(spy).restore(batch, ["a", "b"])
    assert spy.labels == [[[0, 0, 1, 0, 0]], [[0, 1, 0, 0, 0]]]
    assert restored[0].eq(1).all() and restored[1].eq(0).all()


def test_an_image_is_classified_once_for_all_samples(spy):
    result = restorer(spy, samples=4).restore_with_spread(torch.full((1, 3, 20, 30), 0.9), ["a"])
    assert len(spy.seen) == len(spy.labels) == 1
    assert result.images.eq(1).all() and result.spread.eq(0).all()


def test_a_small_image_is_classified_as_a_whole_at_the_last_timestep(spy):
    image = torch.rand(1, 3, 20, 30)
    restorer(spy).restore(image, ["a"])
    ((x_t, t, seen),) = spy.seen
    assert seen.shape == x_t.shape == (1, 3, 32, 32) and t.tolist() == [999]
    torch.testing.assert_close(seen[..., :20, :30], image * 2 - 1)
    assert abs(x_t.mean()) < 0.1 and abs(x_t.std() - 1) < 0.1


def test_nine_windows_of_a_large_image_reach_its_ends(spy):
    rows, columns = torch.arange(2000.0)[:, None], torch.arange(1500.0)[None]
    image = torch.stack([rows.expand(2000, 1500), columns.expand(2000, 1500), torch.zeros(2000, 1500)])[None] / 2000
    restorer(spy).restore(image, ["a"])
    ((_, _, seen),) = spy.seen
    assert seen.shape == (9, 3, WINDOW_PX, WINDOW_PX)
    ends = (seen + 1) / 2 * 2000
    assert ends[:, 0].min().round() == 0 and ends[:, 0].max().round() == 1999
    assert ends[:, 1].min().round() == 0 and ends[:, 1].max().round() == 1499


def test_an_image_of_one_and_a_half_windows_has_one_in_the_middle(spy):
    restorer(spy).restore(torch.arange(470.0).expand(1, 3, 320, 470) / 470, ["a"])
    ((_, _, seen),) = spy.seen
    ends = (seen + 1) / 2 * 470
    assert len(seen) == 1 and ends.min().round() == 75 and ends.max().round() == 394


@pytest.mark.parametrize("bfloat16", [True, False])
def test_recognition_uses_bfloat16_when_the_network_does(spy, bfloat16):
    dtypes = []

    def recognise(x_t, t, degraded):
        dtypes.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return torch.zeros(len(degraded), 5)

    Recognition(recognise, spy.with_label, 999, 16, CPU, bfloat16).logits(torch.rand(1, 3, 16, 16))
    assert dtypes == [torch.bfloat16 if bfloat16 else False]


def test_logits_are_the_mean_over_windows_clamped_to_98_percent(spy):
    image = torch.full((1, 3, 320, 960), 0.1)
    image[..., :320] = 0.9
    logits = Recognition(spy.recognise, spy.with_label, 999, 16, CPU).logits(image)
    torch.testing.assert_close(logits, torch.tensor([[-1, 4 / 3, -4 / 3, -1, -1]]))
