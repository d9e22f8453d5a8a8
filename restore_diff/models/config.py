"""Settings of the networks."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from restore_diff.schema import settings


@settings
class NetworkConfig:
    kind: Literal["unet"] = Field(default="unet", description="the network")
    base_channels: int = Field(default=128, ge=8, le=8192, multiple_of=2, description="channels at full resolution")
    channel_multipliers: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 2, 3, 4), min_length=1, max_length=12, description="one per level"
    )
    num_blocks: int = Field(default=2, ge=1, le=64, description="residual blocks per level")
    attention_levels: tuple[NonNegativeInt, ...] = Field(
        default=(2,), description="with self-attention; level i: 1/2^i size"
    )
    mid_attention: bool = Field(default=True, description="self-attention between the two halves")
    head_channels: int = Field(
        default=64, ge=0, description="channels of one attention head; 0: one head with all of them"
    )
    num_groups: int = Field(default=32, ge=1, description="groups of every GroupNorm")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="inside residual blocks")
    unshuffle: int = Field(
        default=1, ge=1, le=8, description="work at 1/unshuffle of the size, space folded into channels"
    )
    hint: bool = Field(default=False, description="can be told the weather, and learns to do without")
    recognise: bool = Field(
        default=False, description="unet with a hint: can say what weather it sees, once training.part=recognition"
    )
    image_channels: int = Field(default=3, ge=1, description="channels of x_t and of the output")
    condition_channels: int = Field(default=3, ge=0, description="channels of the degraded image; 0: no condition")
