"""What renders each kind of weather, by its name in the config."""

from collections.abc import Callable

from restore_diff.data.weather.haze import render_haze
from restore_diff.data.weather.rain import render_rain
from restore_diff.data.weather.raindrop import render_raindrops
from restore_diff.data.weather.snow import render_snow
from restore_diff.tensors import Images

LAYERS: dict[str, Callable[..., Images]] = {
    "rain": render_rain,
    "haze": render_haze,
    "snow": render_snow,
    "raindrop": render_raindrops,
}
"""(images, settings, seeds) -> images; the settings are the section of the same name."""
