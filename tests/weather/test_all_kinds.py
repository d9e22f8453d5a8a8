"""Properties shared by all kinds of weather: seeds, row independence, dtypes, sizes, validation."""

import pickle

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from restore_diff.settings import HazeConfig, RainConfig, RaindropConfig, SnowConfig
from restore_diff.weather.renderer import WEATHERS, Kind, Rendering

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
