"""The weather renderer: layers, mixture, camera with sensor noise, sharpening and JPEG."""

import io
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from kornia.filters import gaussian_blur2d
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from restore_diff import build
from restore_diff.data.names import PairPath
from restore_diff.settings import CameraConfig, DataConfig, HazeConfig, Mixture, RainConfig, Weather
from restore_diff.weather.haze import render_haze
from restore_diff.weather.rain import render_rain
from restore_diff.weather.renderer import Rendering, WeatherRenderer, add_sensor_noise, compress, sharpen, take
from restore_diff.weather.snow import render_snow

LAYERS = {
    "rain": Rendering(render_rain, RainConfig(density=(0.02, 0.03))),
    "haze": Rendering(render_haze, HazeConfig()),
}
ALL = CameraConfig(
    shot_noise=(0.001, 0.02),
    read_noise=(0.001, 0.02),
    sharpening=(0.0, 1.0),
    jpeg=0.7,
    jpeg_quality=(20, 95),
    jpeg_scale=(1.0, 2.0),
)
OFF = Rendering(take, CameraConfig())


def weather(mixture: Mixture, camera: CameraConfig | None = None) -> WeatherRenderer:
    return WeatherRenderer(mixture, LAYERS, Rendering(take, camera or CameraConfig()))


def photographs(num_images: int, height: int = 40, width: int = 56) -> Tensor:
    """Smooth pictures: noise would hardly compress."""
    coarse = torch.rand(num_images, 3, 5, 7, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def made(config: DataConfig, *pairs: PairPath) -> WeatherRenderer:
    renderer = build.renderer(config, pairs)
    assert renderer is not None
    return renderer


@pytest.mark.parametrize("first", ["rain", "snow"])
def test_haze_is_applied_after_rain_or_snow(first: str):
    clean, seeds, config = photographs(4), range(4), DataConfig(weather=f"{first}+haze")  # type: ignore[arg-type]
    falling = Rendering(render_rain, config.rain) if first == "rain" else Rendering(render_snow, config.snow)
    assert torch.equal(made(config)(clean, seeds), Rendering(render_haze, config.haze)(falling(clean, seeds), seeds))


def test_the_camera_is_applied_last_to_every_image():
    clean, seeds = photographs(8), range(8)
    mixture: Mixture = {"none": 1, "rain": 1, "rain+haze": 1}
    taken = weather(mixture, ALL)(clean, seeds)
    expected = Rendering(take, ALL)(weather(mixture)(clean, seeds), seeds)
    torch.testing.assert_close(taken, expected, atol=0, rtol=0)
    assert (taken != weather(mixture)(clean, seeds)).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", ["rain", "haze", "snow", "raindrop", "rain+haze", "snow+haze", "rain+raindrop"])
def test_every_weather_changes_the_picture_and_stays_in_range(kind: Weather):
    clean = torch.cat([photographs(4), torch.zeros(1, 3, 40, 56), torch.ones(1, 3, 40, 56)])
    degraded = made(DataConfig(weather=kind, camera=ALL))(clean, range(6))
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
    renderer = weather({"rain": 1, "haze": 1, "none": 1}, ALL)
    together = renderer(clean, seeds, weathers)
    assert not torch.equal(*weather({"none": 1}, ALL)(clean[:1].expand(2, -1, -1, -1), [1, 2]))
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
    weather({"none": 1, "rain+haze": 1}, ALL)(clean, range(4)).zero_()
    weather({"none": 1})(clean, range(4)).zero_()
    assert torch.equal(clean, before)


@pytest.mark.parametrize(("seeds", "weathers"), [([0], None), ([0, 1, 2], None), ([0, 1], ["rain"]), ([0, 1], [])])
def test_a_missing_seed_or_weather_is_rejected(seeds: list[int], weathers: list[Weather | None] | None):
    with pytest.raises(ValueError, match="one seed and one weather per image, got 2 images"):
        weather({"rain": 1})(photographs(2), seeds, weathers)


def test_the_renderer_can_be_pickled():
    renderer = made(DataConfig(weather={"rain": 1, "snow+haze": 2, "raindrop": 1}, camera=ALL))
    sent = pickle.loads(pickle.dumps(renderer))
    assert torch.equal(sent(photographs(4), range(4)), renderer(photographs(4), range(4)))


def test_no_renderer_is_built_without_weather():
    clean_only, hazy = PairPath(None, Path("a.png"), "a"), PairPath(None, Path("b.png"), "b", "haze")
    genuine = PairPath(Path("c_rain.png"), Path("c.png"), "c")
    nothing = DataConfig(weather="none")
    assert build.renderer(nothing) is None
    assert build.renderer(nothing, [genuine]) is None
    assert build.renderer(nothing, [clean_only, hazy]) is None
    assert build.renderer(DataConfig(weather="rain", rain=RainConfig(textures="no/such/folder")), [genuine]) is None
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


# Camera.


def noise(shot: float, read: float) -> CameraConfig:
    return CameraConfig(shot_noise=(shot, shot), read_noise=(read, read))


def jpeg(lowest: int, highest: int, share: float = 1.0) -> CameraConfig:
    return CameraConfig(jpeg=share, jpeg_quality=(lowest, highest))


def levels(image: Tensor) -> np.ndarray:
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


def by_pillow(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(levels(image)).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1).float() / 255


def test_a_camera_that_is_off_returns_its_input():
    images = photographs(2)
    assert take(images, CameraConfig(), [0, 1]) is images


@pytest.mark.parametrize("light", [0.0, 0.1, 0.25, 0.5])
@pytest.mark.parametrize(("shot", "read"), [(0.004, 0.0), (0.0, 0.03), (0.004, 0.03)])
def test_the_noise_variance_follows_the_poisson_gaussian_model(light: float, shot: float, read: float):
    """On linear light x: shot * x + read^2 (Foi et al. 2008). At 0 the half below is cut off."""
    flat = linear_rgb_to_rgb(torch.full((2, 3, 128, 128), light))
    noisy = rgb_to_linear_rgb(add_sensor_noise(flat, noise(shot, read), [0, 1]))
    expected = shot * light + read**2
    if light == 0:
        assert noisy.square().mean() == pytest.approx(expected / 2, rel=0.03, abs=1e-9)
    else:
        assert noisy.mean() == pytest.approx(light, abs=5e-4)
        assert noisy.var(dim=(0, 2, 3)).tolist() == pytest.approx([expected] * 3, rel=0.03)


def test_noise_of_pixels_and_colours_is_independent():
    flat = torch.full((1, 3, 128, 128), 0.6)
    deviation = (add_sensor_noise(flat, noise(0.002, 0), [0]) - flat)[0]
    deviation = (deviation - deviation.mean()) / deviation.std()
    for first, second in (
        (deviation[0], deviation[1]),
        (deviation[1], deviation[2]),
        (deviation[:, 1:], deviation[:, :-1]),
        (deviation[..., 1:], deviation[..., :-1]),
    ):
        assert abs(float((first * second).mean())) < 0.03


def test_the_noise_strength_is_drawn_per_image():
    flat = linear_rgb_to_rgb(torch.full((200, 3, 16, 16), 0.5))
    config = CameraConfig(shot_noise=(0.0, 0.0), read_noise=(0.01, 0.05))
    strengths = rgb_to_linear_rgb(add_sensor_noise(flat, config, range(200))).std((1, 2, 3))
    assert strengths.min() < 0.013 and strengths.max() > 0.046
    assert strengths.mean() == pytest.approx(0.03, rel=0.08)


@pytest.mark.parametrize("quality", [1, 30, 75, 100])
def test_jpeg_equals_that_of_pillow(quality: int):
    images = photographs(2, 41, 59)
    compressed = compress(images, jpeg(quality, quality), [0, 1])
    for image, result in zip(images, compressed, strict=True):
        torch.testing.assert_close(result, by_pillow(image, quality), atol=0.5 / 255, rtol=0)


def test_every_quality_of_the_range_occurs():
    image = photographs(1, 32, 32)
    by_quality = {quality: by_pillow(image[0], quality) for quality in (20, 50, 51, 52, 53, 90)}
    compressed = compress(image.expand(60, -1, -1, -1), jpeg(50, 53), range(60))
    found = [min(by_quality, key=lambda q: float((by_quality[q] - c).square().mean())) for c in compressed]
    assert set(found) == {50, 51, 52, 53}


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_the_requested_share_of_images_is_compressed(share: float):
    images = photographs(1, 16, 16).expand(400, -1, -1, -1)
    compressed = compress(images, jpeg(30, 30, share), range(400))
    num_changed = int((compressed != images).flatten(1).any(1).sum())
    assert abs(num_changed - 400 * share) < 4 * math.sqrt(400 * share * (1 - share))


def test_noise_comes_before_compression():
    images = photographs(2)
    camera = CameraConfig(shot_noise=(0.01, 0.01), read_noise=(0.01, 0.01), jpeg=1.0, jpeg_quality=(30, 30))
    expected = compress(add_sensor_noise(images, camera, [3, 4]), camera, [3, 4])
    assert torch.equal(take(images, camera, [3, 4]), expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (37, 53)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_stay_in_range_at_every_size(height: int, width: int, dtype: torch.dtype):
    for value in (0.0, 1.0):
        images = torch.full((20, 3, height, width), value, dtype=dtype)
        taken = take(images, ALL, range(20))
        assert taken.shape == images.shape and taken.dtype == dtype
        assert taken.min() >= 0 and taken.max() <= 1


@pytest.mark.parametrize(
    "wrong", [{"jpeg_quality": (0, 50)}, {"jpeg_quality": (50, 101)}, {"jpeg": 1.5}, {"read_noise": (0.1, 0.0)}]
)
def test_invalid_camera_settings_are_rejected(wrong: dict):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        CameraConfig(**wrong)


def test_sharpening_adds_its_share_of_what_a_blur_removes():
    images = 0.3 + 0.4 * photographs(3)
    sharpened = sharpen(images, CameraConfig(sharpening=(0.5, 0.5)), [0, 1, 2])
    removed = images - gaussian_blur2d(images, 5, (1.0, 1.0), "replicate")
    torch.testing.assert_close(sharpened, (images + 0.5 * removed).clamp(0, 1))


def test_compression_at_twice_the_size_leaves_smaller_errors():
    images = photographs(4, 64, 64)
    errors = [
        (compress(images, CameraConfig(jpeg=1.0, jpeg_quality=(40, 40), jpeg_scale=(scale, scale)), range(4)) - images)
        for scale in (1.0, 2.0)
    ]
    assert errors[1].square().mean() < 0.6 * errors[0].square().mean()
