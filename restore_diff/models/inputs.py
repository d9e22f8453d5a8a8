"""What every network refuses."""

from restore_diff.models.config import NetworkConfig
from restore_diff.tensors import Images, Timesteps


def check_inputs(config: NetworkConfig, size_multiple: int, x_t: Images, t: Timesteps, degraded: Images | None) -> None:
    """Raise ValueError for a condition that is missing, superfluous or of another shape, and for a wrong size."""
    batch, channels, height, width = x_t.shape
    given = 0 if degraded is None else degraded.shape[1]
    if (channels, given) != (config.image_channels, config.condition_channels):
        wanted = f"{config.image_channels} and {config.condition_channels}"
        raise ValueError(f"x_t and degraded must have {wanted} channels, got {channels} and {given}")
    if degraded is not None and (degraded.shape[0], *degraded.shape[2:]) != (batch, height, width):
        raise ValueError(f"degraded must match x_t {tuple(x_t.shape)}, got {tuple(degraded.shape)}")
    if t.shape != (batch,):
        raise ValueError(f"t must have one entry per image, ({batch},), got {tuple(t.shape)}")
    if height % size_multiple or width % size_multiple:
        raise ValueError(f"height and width must be multiples of {size_multiple}, got {height} x {width}")
