"""Settings of rendered weather. From each range one value is drawn, uniformly, anew for each image."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from restore_diff.data.weather.ranges import (
    BlurRadius,
    Covered,
    DropRadius,
    JpegQuality,
    Multiple,
    OpticalDepth,
    Pixels,
    Range,
    Ratio,
    Share,
    Tilt,
    TiltSpread,
)
from restore_diff.schema import settings

Weather = Literal["none", "rain", "haze", "snow", "raindrop", "rain+haze", "snow+haze", "rain+raindrop"]
"""What is rendered on a clean photograph; of two, the former lies in the scene behind the latter."""

Mixture = Annotated[dict[Weather, Annotated[float, Field(gt=0)]], Field(min_length=1)]
"""How often each is rendered, relative to the others."""

WeatherChoice = Annotated[
    Annotated[Weather, Tag("[name]")] | Annotated[Mixture, Tag("[mixture]")],
    Discriminator(lambda choice: "[mixture]" if isinstance(choice, dict) else "[name]"),
]
"""One weather or a mixture; a mistake in one of them is not told as a mistake in the other, too."""


@settings
class RainConfig:
    """Rain of one photograph. Lengths and widths are those of a middle-sized drop at the near end of the rain.

    The default ranges come from measurements of published streak textures (Garg & Nayar 2006) and light-rain pictures:
    rendered rain spreads over pictures as they do in added light, touched area, correlation along and across streaks,
    and length, width and brightness of single streaks. A downpour is many faint streaks in mist: `density` 0.02 to
    0.05, `brightness` 0.1 to 0.35, `depth` 5 to 10, and `veil` 0.2 to 0.5, or rain+haze where mist grows with distance.
    """

    density: Range[Share] = Field(default=(0.0015, 0.006), description="streaks per pixel")
    length_px: Range[Pixels] = Field(default=(35.0, 130.0), description="from end to end, of a near streak")
    width_px: Range[Pixels] = Field(default=(1.0, 2.5), description="of a near streak, before blur")
    blur_px: Range[Pixels] = Field(default=(0.4, 0.6), description="standard deviation of the blur of lens and sensor")
    brightness: Range[Share] = Field(
        default=(0.2, 0.9), description="light added by a streak that is wider than its blur"
    )
    softness: Range[Share] = Field(
        default=(0.4, 1.0), description="share of a streak's length in which it fades in and out"
    )
    beading: Range[Share] = Field(
        default=(0.0, 0.9), description="depth of the oscillation of brightness along a streak"
    )
    angle_deg: Range[Tilt] = Field(default=(-35.0, 35.0), description="tilt by wind; positive leans like a slash: /")
    angle_spread_deg: Range[TiltSpread] = Field(
        default=(0.2, 1.6), description="standard deviation of single streaks' tilt"
    )
    size_spread: Range[Share] = Field(
        default=(0.2, 0.7), description="standard deviation of the logarithm of drop diameters"
    )
    depth: Range[Ratio] = Field(
        default=(2.5, 10.0), description="distance of the rain's far end over that of its near end"
    )
    veil: Range[Share] = Field(
        default=(0.0, 0.0), description="share of the light that comes from mist, not from the scene"
    )
    airlight: Range[Share] = Field(default=(0.7, 1.0), description="brightness of that mist")
    textures: str = Field(
        default="",
        description="folder of streak pictures on black, cut up instead of drawn streaks; then only brightness, veil "
        "and airlight count",
    )


@settings
class HazeConfig:
    """Haze of one photograph. The default ranges are those of RESIDE, with some colour and unevenness of real haze.

    For fog raise `beta` to 3, and let `airlight` begin at 0.6.
    """

    beta: Range[OpticalDepth] = Field(default=(0.6, 1.8), description="optical depth of the scene's farthest point")
    airlight: Range[Share] = Field(default=(0.7, 1.0), description="brightness of the haze in its strongest colour")
    tint: Range[Share] = Field(default=(0.0, 0.1), description="how much darker its weakest colour is, blue or red")
    unevenness: Range[Share] = Field(default=(0.0, 0.15), description="how much darker the haze may be at places")


@settings
class SnowConfig:
    """Falling snow of one photograph. Sizes are those of a flake of mean area at the near end of the snow.

    The default ranges spread around published masks of Snow100K in light held back, and in number, area and elongation
    of flakes. For large and calm flakes set `size_px` to (30, 60), `motion` to (0, 0.5) and `cover` to (0.02, 0.1).
    """

    cover: Range[Share] = Field(default=(0.01, 0.4), description="area of all flakes, before blur, over the picture's")
    size_px: Range[Pixels] = Field(default=(6.0, 24.0), description="diameter of a near flake, before blur")
    size_spread: Range[Share] = Field(default=(0.2, 0.5), description="standard deviation of diameters' logarithms")
    depth: Range[Ratio] = Field(default=(4.0, 16.0), description="distance of the snow's far end over its near end's")
    motion: Range[Multiple] = Field(default=(0.0, 3.0), description="way while the shutter is open, over the diameter")
    defocus: Range[Multiple] = Field(default=(0.0, 1.5), description="spread of a near point by the lens, likewise")
    blur_px: Range[Pixels] = Field(default=(0.4, 0.6), description="standard deviation of the blur of lens and sensor")
    angle_deg: Range[Tilt] = Field(default=(-50.0, 50.0), description="tilt by wind; positive leans like a slash: /")
    angle_spread_deg: Range[TiltSpread] = Field(default=(2.0, 8.0), description="standard deviation of flakes' tilts")
    opacity: Range[Share] = Field(default=(0.8, 1.0), description="share of light that the densest flakes hold back")
    brightness: Range[Share] = Field(default=(0.8, 1.0), description="of the flakes themselves")
    blueness: Range[Share] = Field(default=(0.0, 0.08), description="share of red that flakes lack; of green half")
    veil: Range[Share] = Field(default=(0.0, 0.0), description="share of the light that comes from mist")
    airlight: Range[Share] = Field(default=(0.7, 1.0), description="brightness of that mist")
    masks: str = Field(
        default="", description="folder of pictures of flakes on black; they take the place of all before opacity"
    )


@settings
class RaindropConfig:
    """Raindrops on the glass before the camera. Pixels are those of a photograph some 700 px wide.

    The default ranges were chosen beside genuine pairs of that width (Qian et al. 2018): by the share of the picture
    that drops change, by how much and how often to brighter, and by the size and blur of single drops.
    """

    covered: Range[Covered] = Field(default=(0.1, 0.5), description="share of the glass that is under water")
    radius_px: Range[DropRadius] = Field(default=(4.0, 16.0), description="of a middle-sized drop")
    size_spread: Range[Share] = Field(default=(0.3, 0.6), description="standard deviation of the logarithm of radii")
    irregularity: Range[Share] = Field(default=(0.1, 0.5), description="0: round; 1: the radius swings by up to 60 %")
    elongation: Range[Ratio] = Field(default=(1.0, 1.5), description="height over width of the most stretched drop")
    running: Range[Share] = Field(default=(0.0, 0.04), description="share of drops that run and leave a trail")
    blur_px: Range[BlurRadius] = Field(default=(2.0, 12.0), description="radius of the disc into which defocus blurs")
    refraction_px: Range[Pixels] = Field(
        default=(100.0, 400.0), description="from a drop's outline to the part of the scene that is seen in it"
    )
    smear_px: Range[Pixels] = Field(
        default=(4.0, 16.0), description="standard deviation of the blur of the scene in a drop; of the scene's pixels"
    )
    surroundings: Range[Share] = Field(
        default=(0.3, 0.8), description="share of a drop's light that comes from beyond the picture"
    )
    sky: Range[Share] = Field(default=(0.8, 1.0), description="brightness of these above; seen in a drop's lower part")
    ground: Range[Share] = Field(default=(0.4, 0.9), description="brightness of these below; seen in its upper part")
    shading: Range[Share] = Field(default=(0.05, 0.5), description="share of light lost at the upper outline of a drop")
    highlight: Range[Share] = Field(default=(0.2, 0.9), description="whiteness of the bright spot in its lower part")
    opacity: Range[Share] = Field(default=(0.8, 1.0), description="share of the scene behind that a drop hides")


@settings
class CameraConfig:
    """What the camera adds after the weather: noise of the sensor, then compression. By default neither.

    Linear light is the coded value before the curve of sRGB. Telephones have a `shot_noise` from 0.0001 by day to 0.012
    at night, and a `read_noise` from 0.0001 to 0.015 (Brooks et al., "Unprocessing images", CVPR 2019).
    """

    shot_noise: Range[Share] = Field(default=(0.0, 0.0), description="variance of the noise per unit of linear light")
    read_noise: Range[Share] = Field(default=(0.0, 0.0), description="standard deviation in the dark, of linear light")
    jpeg: Share = Field(default=0.0, description="share of images that are compressed")
    jpeg_quality: Range[JpegQuality] = Field(default=(40, 95), description="as JPEG writers count it")
