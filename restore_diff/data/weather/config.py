"""Settings of rendered weather. From each range one value is drawn, uniformly, anew for each image."""

from typing import Annotated, Literal

from pydantic import Field

from restore_diff.data.weather.ranges import Pixels, Range, Ratio, Share, Tilt, TiltSpread
from restore_diff.schema import settings

Weather = Literal["none", "rain", "haze", "snow", "raindrop", "rain+haze", "snow+haze", "rain+raindrop"]
"""What is rendered on a clean photograph; of two, the former lies in the scene behind the latter."""

Mixture = dict[Weather, Annotated[float, Field(gt=0)]]
"""How often each is rendered, relative to the others."""


@settings
class RainConfig:
    """Rain of one photograph. Lengths and widths are those of a middle-sized drop at the near end of the rain.

    The default ranges come from measurements of published streak textures (Garg & Nayar 2006) and light-rain pictures:
    rendered rain spreads over pictures as they do in added light, touched area, correlation along and across streaks,
    and length, width and brightness of single streaks. For a downpour raise `density` to 0.03 and `veil` to 0.4.
    """

    density: Range[Share] = Field(default=(0.0015, 0.006), description="streaks per pixel")
    length_px: Range[Pixels] = Field(default=(35.0, 130.0), description="from end to end, of a near streak")
    width_px: Range[Pixels] = Field(default=(1.0, 2.5), description="of a near streak, before blur")
    blur_px: Range[Pixels] = Field(default=(0.4, 0.6), description="standard deviation of the blur of lens and sensor")
    brightness: Range[Share] = Field(default=(0.2, 0.9), description="light added by a streak that is wider than its blur")
    softness: Range[Share] = Field(default=(0.4, 1.0), description="share of a streak's length in which it fades in and out")
    beading: Range[Share] = Field(default=(0.0, 0.9), description="depth of the oscillation of brightness along a streak")
    angle_deg: Range[Tilt] = Field(default=(-35.0, 35.0), description="tilt by wind; positive leans like a slash: /")
    angle_spread_deg: Range[TiltSpread] = Field(default=(0.2, 1.6), description="standard deviation of single streaks' tilt")
    size_spread: Range[Share] = Field(default=(0.2, 0.7), description="standard deviation of the logarithm of drop diameters")
    depth: Range[Ratio] = Field(default=(2.5, 10.0), description="distance of the rain's far end over that of its near end")
    veil: Range[Share] = Field(default=(0.0, 0.0), description="share of the light that comes from mist, not from the scene")
    airlight: Range[Share] = Field(default=(0.7, 1.0), description="brightness of that mist")


@settings
class HazeConfig:
    """Haze of one photograph."""


@settings
class SnowConfig:
    """Falling snow of one photograph."""


@settings
class RaindropConfig:
    """Raindrops on the glass before the camera."""


@settings
class CameraConfig:
    """What the camera adds after the weather: noise of the sensor, then compression."""
