"""Settings of how an image of any size is taken through the network."""

from pydantic import Field

from restore_diff.schema import settings


@settings
class TilingConfig:
    tile_size_px: int = Field(default=0, ge=0, description="side of a tile; 0: the whole image at once")
    tile_overlap_px: int = Field(default=16, ge=0, description="how far neighbouring tiles overlap")
    tiles_per_batch: int = Field(default=16, ge=1, description="tiles in one network call")
