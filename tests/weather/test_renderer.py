"""The weather renderer: layers, mixture, camera."""

import math
import pickle
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from restore_diff import build
from restore_diff.data.names import PairPath
from restore_diff.settings import CameraConfig, DataConfig, HazeConfig, Mixture, RainConfig, Weather
from restore_diff.weather.haze import render_haze
from restore_diff.weather.rain import render_rain
from restore_diff.weather.renderer import Rendering, WeatherRenderer, take
from restore_diff.weather.snow import render_snow

LAYERS = {
    "rain": Rendering(render_rain, RainConfig(density=(0.02, 0.03))),
    "haze": Rendering(render_haze, HazeConfig()),
}
NOISY = CameraConfig(shot_noise=(0.002, 0.01), read_noise=(0.001, 0.01), jpeg=0.5)
OFF = Rendering(take, CameraConfig())


def weather(mixture: Mixture, camera: CameraConfig | None = None) -> WeatherRenderer:
    return WeatherRenderer(mixture, LAYERS, Rendering(take, camera or CameraConfig()))


def photographs(num_images: int, height: int = 40, width: int = 56) -> Tensor:
    return torch.rand(num_images, 3, height, width, generator=torch.Generator().manual_seed(1))


def made(config: DataConfig, *pairs: PairPath) -> WeatherRenderer:
    renderer = build.renderer(config, pairs)
    assert renderer is not None
    return renderer


def test_a_single_kind_equals_its_render_function_bitwise():
    clean, seeds, config = photographs(6), [5, 2, 8, 8, 1, 0], DataConfig(weather="rain")
    assert torch.equal(made(config)(clean, seeds), Rendering(render_rain, config.rain)(clean, seeds))


@pytest.mark.parametrize("first", ["rain", "snow"])
def test_haze_is_applied_after_rain_or_snow(first: str):
    clean, seeds, config = photographs(4), range(4), DataConfig(weather=f"{first}+haze")  # type: ignore[arg-type]
    falling = Rendering(render_rain, config.rain) if first == "rain" else Rendering(render_snow, config.snow)
    assert torch.equal(made(config)(clean, seeds), Rendering(render_haze, config.haze)(falling(clean, seeds), seeds))


def test_the_camera_is_applied_last_to_every_image():
    clean, seeds = photographs(8), range(8)
    mixture: Mixture = {"none": 1, "rain": 1, "rain+haze": 1}
    taken = weather(mixture, NOISY)(clean, seeds)
    expected = Rendering(take, NOISY)(weather(mixture)(clean, seeds), seeds)
    torch.testing.assert_close(taken, expected, atol=0, rtol=0)
    assert (taken != weather(mixture)(clean, seeds)).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", ["rain", "haze", "snow", "raindrop", "rain+haze", "snow+haze", "rain+raindrop"])
def test_every_weather_changes_the_picture_and_stays_in_range(kind: Weather):
    clean = torch.cat([photographs(4), torch.zeros(1, 3, 40, 56), torch.ones(1, 3, 40, 56)])
    degraded = made(DataConfig(weather=kind, camera=NOISY))(clean, range(6))
    assert degraded.shape == clean.shape and degraded.dtype == clean.dtype
    assert degraded.min() >= 0 and degraded.max() <= 1
    assert (degraded[:4] - clean[:4]).abs().mean() > 1e-3


def test_each_weather_is_drawn_as_often_as_its_share():
    mixture: Mixture = {"none": 1.0, "rain": 3.0, "haze": 4.0}
    renderer = WeatherRenderer(mixture, {"rain": add(0.25), "haze": add(0.5)}, OFF)
    drawn = renderer(torch.zeros(1200, 3, 1, 1), range(1200))[:, 0, 0, 0]
    for value, share in ((0.0, 1 / 8), (0.25, 3 / 8), (0.5, 4 / 8)):
        num_drawn = int((drawn == value).sum())
        assert abs(num_drawn - 1200 * share) < 4 * math.sqrt(1200 * share * (1 - share))


def add(value: float):
    return lambda images, seeds: images + value


def test_an_image_depends_on_its_own_row_only():
    clean, seeds = photographs(8), [3, 1, 4, 1, 5, 9, 2, 6]
    weathers: list[Weather | None] = [None, "haze", None, "rain", None, None, "none", "rain+haze"]
    renderer = weather({"rain": 1, "haze": 1, "none": 1}, NOISY)
    together = renderer(clean, seeds, weathers)
    for row in (7, 0, 3, 1, 2, 6, 5, 4):
        alone = renderer(clean[row, None], [seeds[row]], [weathers[row]])
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=0)


def test_a_named_weather_overrides_the_mixture():
    clean = photographs(3)
    degraded = weather({"rain": 1})(clean, [7, 7, 7], ["haze", "none", None])
    assert torch.equal(degraded[0], LAYERS["haze"](clean[:1], [7])[0])
    assert torch.equal(degraded[1], clean[1])
    assert torch.equal(degraded[2], LAYERS["rain"](clean[2:], [7])[0])


def test_the_clean_images_are_not_modified():
    clean = photographs(4)
    before = clean.clone()
    weather({"none": 1, "rain+haze": 1}, NOISY)(clean, range(4)).zero_()
    weather({"none": 1})(clean, range(4)).zero_()
    assert torch.equal(clean, before)


@pytest.mark.parametrize(("seeds", "weathers"), [([0], None), ([0, 1, 2], None), ([0, 1], ["rain"]), ([0, 1], [])])
def test_a_missing_seed_or_weather_is_rejected(seeds: list[int], weathers: list[Weather | None] | None):
    with pytest.raises(ValueError, match="one seed and one weather per image, got 2 images"):
        weather({"rain": 1})(photographs(2), seeds, weathers)


def test_the_renderer_can_be_pickled():
    renderer = made(DataConfig(weather={"rain": 1, "snow+haze": 2, "raindrop": 1}, camera=NOISY))
    sent = pickle.loads(pickle.dumps(renderer))
    assert torch.equal(sent(photographs(4), range(4)), renderer(photographs(4), range(4)))


def test_no_renderer_is_built_without_weather():
    clean_only, hazy = PairPath(None, Path("a.png"), "a"), PairPath(None, Path("b.png"), "b", "haze")
    genuine = PairPath(Path("c_rain.png"), Path("c.png"), "c")
    nothing = DataConfig(weather="none")
    assert build.renderer(nothing) is None
    assert build.renderer(nothing, [genuine]) is None
    assert build.renderer(nothing, [clean_only, hazy]) is None
    degraded = made(nothing, genuine, hazy)(photographs(1), [0], ["haze"])
    assert torch.equal(degraded, Rendering(render_haze, nothing.haze)(photographs(1), [0]))


def test_settings_of_unused_kinds_are_ignored():
    config = DataConfig(weather="haze", rain=RainConfig(textures="no/such/folder"))
    assert set(made(config).layers) == {"haze"}
    assert set(made(config, PairPath(None, Path("a.png"), "a", "snow+haze")).layers) == {"haze", "snow"}


@pytest.mark.parametrize("wrong", [{}, {"rain": 0.0}, {"rain+": 1.0}, "rain haze", {"rain": -1.0}])
def test_invalid_mixtures_are_rejected(wrong):
    with pytest.raises(ValidationError, match="weather"):
        DataConfig(weather=wrong)
