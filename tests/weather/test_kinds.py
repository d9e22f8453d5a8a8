"""Properties shared by all kinds of weather: seeds, row independence, dtypes, sizes, settings, extremes."""

from itertools import combinations

import pytest
import torch
from pydantic import ValidationError
from still import fixed, photographs
from torch import Tensor
from torch.nn.functional import interpolate

from restore_diff.settings import HazeConfig, RainConfig, RaindropConfig, SnowConfig, range_names
from restore_diff.weather.raindrop import Drops
from restore_diff.weather.renderer import WEATHERS, Kind
from restore_diff.weather.scene import EXTREMES, drawn_ranges

NAMES = ("rain", "haze", "snow", "raindrop")
KINDS = pytest.mark.parametrize("kind", [WEATHERS[name] for name in NAMES], ids=NAMES)


@KINDS
def test_an_image_depends_on_its_own_row_and_seed_only(kind: Kind):
    clean, seeds = photographs(5), [3, 1, 4, 1, 5]
    together = kind.render(clean, kind.settings(), seeds)
    for row in (4, 0, 2, 1, 3):
        alone = kind.render(clean[row, None], kind.settings(), [seeds[row]])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)
    first, second, third = kind.render(photographs(1).expand(3, -1, -1, -1), kind.settings(), [5, 6, 5])
    assert torch.equal(first, third)
    assert (first - second).abs().mean() > (0.01 if kind.settings is HazeConfig else 0.002)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_is_kept_and_no_gradient_is_recorded(kind: Kind, dtype: torch.dtype):
    clean = photographs(2).to(dtype).requires_grad_()
    before = clean.detach().clone()
    degraded = kind.render(clean, kind.settings(), [0, 1])
    assert degraded.dtype == dtype and degraded.device == clean.device
    assert not degraded.requires_grad and torch.equal(clean.detach(), before)
    (degraded * clean).sum().backward()  # not an inference tensor: the network may train on it


@KINDS
def test_a_missing_seed_is_rejected(kind: Kind):
    with pytest.raises(ValueError, match="got 2 images and 1 seeds"):
        kind.render(photographs(2), kind.settings(), [0])


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (37, 53)])
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("rain", RainConfig(density=(0.01, 0.05))),
        ("haze", HazeConfig(beta=(0.0, 20.0), airlight=(0.0, 1.0), tint=(0.0, 1.0), unevenness=(0.0, 1.0))),
        ("snow", SnowConfig(cover=(0.2, 1))),
        ("snow", SnowConfig(size_px=(900, 900), cover=(1, 1), depth=(2, 2))),
        ("snow", SnowConfig(size_px=(0.01, 0.01), cover=(1e-4, 1e-4))),
        ("raindrop", RaindropConfig(covered=(0.5, 0.5), highlight=(1, 1))),
    ],
)
def test_any_image_size_is_rendered_in_range(kind: str, settings, value: float, size: tuple[int, int]):
    clean = torch.full((20, 3, *size), value)
    degraded = WEATHERS[kind].render(clean, settings, range(20))
    assert degraded.shape == clean.shape and degraded.isfinite().all()
    assert degraded.min() >= 0 and degraded.max() <= 1
    assert value == 1 or degraded.max() > 0


@KINDS
def test_rendering_in_parts_leaves_no_seam(kind: Kind, monkeypatch):
    clean = photographs(2, 70, 90)
    whole = kind.render(clean, kind.settings(), [0, 1])
    monkeypatch.setattr("restore_diff.weather.particles.Particles.at_once", 7)
    monkeypatch.setattr(Drops, "at_once", 3)
    monkeypatch.setattr("restore_diff.weather.raindrop.WINDOW_PX", 32)
    torch.testing.assert_close(kind.render(clean, kind.settings(), [0, 1]), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["rain", "snow"])
def test_mist_hides_scene_and_particles_alike(name: str):
    kind, clean = WEATHERS[name], photographs(2) * 0.1
    dry, veiled = (fixed(kind.settings, {"brightness": 0.5, "veil": v, "airlight": 0.8}) for v in (0, 0.3))
    expected = kind.render(clean, dry, [0, 1]) * 0.7 + 0.8 * 0.3
    torch.testing.assert_close(kind.render(clean, veiled, [0, 1]), expected)


CROPPED = {
    "rain": {"density": 0.004, "length_px": 60, "width_px": 4, "size_spread": 0.4, "depth": 1, "brightness": 0.1},
    "snow": {"cover": 0.3, "opacity": 0.1, "size_px": 12, "depth": 2, "motion": 2, "defocus": 1, "brightness": 1},
}


@pytest.mark.parametrize("name", CROPPED)
def test_a_crop_holds_as_much_as_a_whole_photograph_up_to_its_border(name: str):
    kind = WEATHERS[name]
    config = fixed(kind.settings, {"angle_deg": 25, **CROPPED[name]})

    def light(num_images: int, size: int) -> Tensor:
        return kind.render(torch.zeros(num_images, 3, size, size), config, range(num_images))[:, 2]

    whole, crops, pixels = light(10, 256), light(400, 32), light(1500, 1)
    borders = crops[:, :3], crops[:, -3:], crops[:, :, :3], crops[:, :, -3:]
    for part, tolerance in ((crops, 0.06), (pixels, 0.2), *((border, 0.1) for border in borders)):
        assert part.mean() == pytest.approx(float(whole.mean()), rel=tolerance)
        assert (part > 0.03).float().mean() == pytest.approx(float((whole > 0.03).float().mean()), rel=tolerance)


WIDER = {"veil": (0.1, 0.4), "running": (0.1, 0.8), "covered": (0.3, 0.6), "density": (0.002, 0.02)}
"""Ranges wider than the default ones, which change a small image."""


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in NAMES for name in range_names(WEATHERS[kind].settings())]
)
def test_each_setting_changes_the_image_and_is_drawn_per_image(kind: str, name: str):
    render, settings = WEATHERS[kind]
    ranges = {each: WIDER.get(each, getattr(settings(), each)) for each in range_names(settings())}
    still = {each: ((low + high) / 2,) * 2 for each, (low, high) in ranges.items()}
    scene = interpolate(photographs(2, 6, 6) * 0.5, (64, 64), mode="bilinear")
    low, high = ranges[name]
    images = [
        render(scene, settings(**still | {name: ends}), [0, 1]) for ends in ((low, low), (high, high), (low, high))
    ]
    for first, second in combinations(images, 2):
        assert (first - second).abs().mean((1, 2, 3)).min() > 1e-4


WRONG = {
    RainConfig: [{"density": (0.2, 0.1)}, {"brightness": (0.5, 1.5)}, {"angle_deg": (0, 90)}, {"depth": (0.5, 2)}],
    HazeConfig: [{"beta": (-1, 1)}, {"airlight": (0.5, 1.2)}],
    SnowConfig: [{"motion": (-1, 0)}],
    RaindropConfig: [{"covered": (0.5, 1)}, {"radius_px": (0, 5)}, {"blur_px": (0, 200)}],
}


@pytest.mark.parametrize(("settings", "wrong"), [(kind, wrong) for kind in WRONG for wrong in WRONG[kind]])
def test_invalid_ranges_are_rejected(settings: type, wrong: dict):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        settings(**wrong)


@pytest.mark.parametrize("name", NAMES)
def test_the_share_of_extremes_draws_from_their_ranges_and_leaves_the_others_as_they_were(name: str):
    kind, seeds = WEATHERS[name], range(400)
    plain, some = ([drawn_ranges(kind.settings(extremes=share), name, s) for s in seeds] for share in (0.0, 0.3))
    changed = [other for one, other in zip(plain, some, strict=True) if one != other]
    assert abs(len(changed) - 120) < 4 * (400 * 0.3 * 0.7) ** 0.5
    entries = [plain[0] | entry for entry in EXTREMES[name]]
    assert all(ranges in entries for ranges in changed)
    assert all(entry in changed for entry in entries)


@KINDS
def test_an_extreme_image_differs_and_stays_in_range(kind: Kind):
    usual, extreme = (kind.render(photographs(12), kind.settings(extremes=share), range(12)) for share in (0.0, 1.0))
    assert extreme.min() >= 0 and extreme.max() <= 1
    assert (usual != extreme).flatten(1).any(1).sum() >= 11
