"""Settings of the U-Net."""

from pydantic import Field

from restore_diff.schema import settings


@settings
class UNetConfig:
    base_channels: int = Field(128, ge=8, description="channels at full resolution")
    channel_multipliers: tuple[int, ...] = Field((1, 2, 3, 4), min_length=1, description="one per resolution level")
    num_blocks: int = Field(2, ge=1, description="residual blocks per level")
    attention_levels: tuple[int, ...] = Field((2,), description="levels with self-attention; level i has 1/2^i size")
    mid_attention: bool = Field(True, description="self-attention between the two halves")
    head_channels: int = Field(64, ge=0, description="channels of one attention head; 0: one head with all of them")
    num_groups: int = Field(32, ge=1, description="groups of every GroupNorm")
    dropout: float = Field(0.0, ge=0, lt=1, description="inside residual blocks")
    unshuffle: int = Field(1, ge=1, le=8, description="work at 1/unshuffle of the size, space folded into channels")
    image_channels: int = Field(3, ge=1, description="channels of x_t and of the output")
    condition_channels: int = Field(3, ge=0, description="channels of the degraded image; 0: no condition")
