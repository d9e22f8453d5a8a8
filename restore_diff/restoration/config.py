"""Settings of how an image of any size is taken through the network."""

from typing import Literal

from pydantic import Field

from restore_diff.schema import settings


@settings
class TilingConfig:
    tile_size_px: int = Field(default=0, ge=0, description="side of a tile; 0: the whole image at once")
    tile_overlap_px: int = Field(default=16, ge=0, description="how far neighbours overlap on an overlapping grid")
    grid: Literal["overlapping", "shifted"] = Field(
        default="overlapping", description="shifted: tiles that meet, with other borders at each step"
    )
    window: Literal["hann", "box"] = Field(
        default="hann", description="weights of overlapping tiles; box: all alike, as WeatherDiffusion has it"
    )
    tiles_per_batch: int = Field(default=0, ge=0, description="tiles in one network call; 0: as the memory allows")
