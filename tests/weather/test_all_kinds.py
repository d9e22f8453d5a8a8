"""Properties shared by all kinds of weather: seeds, row independence, dtypes, sizes, validation."""

import pickle

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from restore_diff.settings import HazeConfig, RainConfig, RaindropConfig, SnowConfig
from restore_diff.weather.renderer import WEATHERS, Kind, Rendering
from restore_diff.weather.scene import EXTREMES, drawn_ranges

KINDS = pytest.mark.parametrize("kind", [WEATHERS[name] for name in ("rain", "haze", "snow", "raindrop")])


def photographs(num_images: int, height: int = 40, width: int = 56) -> Tensor:
    return torch.rand(num_images, 3, height, width, generator=torch.Generator().manual_seed(1))


@KINDS
def test_equal_seeds_give_equal_images_and_other_seeds_others(kind: Kind):
    first, second, third = kind.render(photographs(1).expand(3, -1, -1, -1), kind.settings(), [5, 6, 5])
    assert torch.equal(first, third)
    assert (first - second).abs().mean() > (0.01 if kind.settings is HazeConfig else 0.002)


@pytest.mark.parametrize(
    ("kind", "settings", "atol"),
    [
        ("rain", RainConfig(density=(0.001, 0.02)), 1e-6),
        ("haze", HazeConfig(), 1e-6),
        ("snow", SnowConfig(), 1e-6),
        ("raindrop", RaindropConfig(), 1e-5),
    ],
)
def test_an_image_depends_on_its_own_row_and_seed_only(kind: str, settings, atol: float):
    clean, seeds, render = photographs(5), [3, 1, 4, 1, 5], WEATHERS[kind].render
    together = render(clean, settings, seeds)
    for row in (4, 0, 2, 1, 3):
        alone = render(clean[row, None], settings, [seeds[row]])
        torch.testing.assert_close(alone[0], together[row], atol=atol, rtol=0)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_is_kept_and_no_gradient_is_recorded(kind: Kind, dtype: torch.dtype):
    clean = photographs(2).to(dtype).requires_grad_()
    before = clean.detach().clone()
    degraded = kind.render(clean, kind.settings(), [0, 1])
    assert degraded.dtype == dtype and degraded.device == clean.device
    assert not degraded.requires_grad and torch.equal(clean.detach(), before)
    (degraded * clean).sum().backward()  # not an inference tensor: the network may train on it


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("rain", RainConfig(density=(0.01, 0.02))),
        ("haze", HazeConfig(beta=(2.0, 3.0))),
        ("raindrop", RaindropConfig(covered=(0.3, 0.4))),
    ],
)
def test_a_rendering_can_be_pickled(kind: str, settings):
    render = WEATHERS[kind].render
    renderer = pickle.loads(pickle.dumps(Rendering(render, settings)))
    assert torch.equal(renderer(photographs(2), [8, 9]), render(photographs(2), settings, [8, 9]))


@KINDS
def test_a_missing_seed_is_rejected(kind: Kind):
    with pytest.raises(ValueError, match="got 2 images and 1 seeds"):
        kind.render(photographs(2), kind.settings(), [0])


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (37, 53)])
@pytest.mark.parametrize(
    ("kind", "settings", "minimum"),
    [
        ("rain", RainConfig(density=(0.01, 0.05)), 0),
        ("snow", SnowConfig(cover=(0.2, 1)), 0),
        ("raindrop", RaindropConfig(covered=(0.5, 0.5)), 0.1),
    ],
)
def test_any_image_size_is_rendered_in_range(kind: str, settings, minimum: float, size: tuple[int, int]):
    degraded = WEATHERS[kind].render(torch.zeros(40, 3, *size), settings, range(40))
    assert degraded.shape == (40, 3, *size) and degraded.isfinite().all()
    assert degraded.min() >= 0 and minimum < degraded.max() <= 1


WRONG = {
    RainConfig: [{"density": (0.2, 0.1)}, {"brightness": (0.5, 1.5)}, {"angle_deg": (0, 90)}, {"depth": (0.5, 2)}],
    HazeConfig: [{"beta": (-1, 1)}, {"airlight": (0.5, 1.2)}, {"tint": (0.3, 0.1)}],
    SnowConfig: [{"cover": (0.2, 0.1)}, {"opacity": (0.5, 1.5)}, {"motion": (-1, 0)}, {"depth": (0.5, 2)}],
    RaindropConfig: [
        {"covered": (0.2, 0.1)},
        {"covered": (0.5, 1)},
        {"radius_px": (0, 5)},
        {"blur_px": (0, 200)},
        {"opacity": (0, 2)},
    ],
}


@pytest.mark.parametrize(("settings", "wrong"), [(kind, wrong) for kind in WRONG for wrong in WRONG[kind]])
def test_invalid_ranges_are_rejected(settings: type, wrong: dict):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        settings(**wrong)


@pytest.mark.parametrize("name", ["rain", "haze", "snow", "raindrop"])
def test_the_share_of_extremes_draws_from_their_ranges_and_leaves_the_others_as_they_were(name: str):
    kind, seeds = WEATHERS[name], range(400)
    plain, some = (ranges_of(kind.settings(extremes=share), name, seeds) for share in (0.0, 0.3))
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


def ranges_of(config, name: str, seeds) -> list[dict[str, tuple[float, float]]]:
    return [drawn_ranges(config, name, seed) for seed in seeds]
