"""Settings of the images that train and score a network."""

from typing import Literal

from pydantic import Field

from restore_diff.data.weather.config import (
    CameraConfig,
    HazeConfig,
    RainConfig,
    RaindropConfig,
    SnowConfig,
    WeatherChoice,
)
from restore_diff.schema import settings


@settings
class DataConfig:
    train: str = Field(
        default="skimage",
        min_length=1,
        description="a card in datasets/, or a folder of pairs, of clean photographs or of tar files",
    )
    test: str = Field(default="skimage", min_length=1, description="likewise; never trained on")
    root: str = Field(default="data", description="where the folders of cards lie")
    weather: WeatherChoice = Field(
        default="none", description="rendered on clean photographs that have no partner: one, or {name: share, ...}"
    )
    rain: RainConfig = Field(default_factory=RainConfig)
    haze: HazeConfig = Field(default_factory=HazeConfig)
    snow: SnowConfig = Field(default_factory=SnowConfig)
    raindrop: RaindropConfig = Field(default_factory=RaindropConfig)
    camera: CameraConfig = Field(default_factory=CameraConfig)
    num_validation: int = Field(
        default=8, ge=0, description="clean images held out of training, at most a fifth of them"
    )
    crop_size_px: int = Field(default=64, ge=8, description="side of a training crop")
    on_small: Literal["error", "skip", "pad"] = Field(
        default="error", description="training images smaller than the crop: refused, left out, or mirrored outwards"
    )
    on_bad: Literal["error", "skip"] = Field(
        default="error", description="training files that cannot be read: refused, or replaced by the next pair"
    )
    crops_per_image: int = Field(default=1, ge=1, description="crops taken from an image each time it is read")
    augmentation: Literal["none", "flips", "flips_and_turns"] = Field(default="flips", description="of training crops")
    num_workers: int = Field(default=2, ge=0, description="processes that read and crop")
    cache_mib: int = Field(default=2048, ge=0, description="memory for decoded images; what does not fit is read again")
