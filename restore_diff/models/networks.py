"""The networks by the name that `model.kind` gives."""

from typing import TypeAlias

from restore_diff.models.config import NetworkConfig
from restore_diff.models.unet import UNet

Network: TypeAlias = UNet


def make_network(config: NetworkConfig) -> Network:
    """An untrained one. Raises ValueError for numbers that do not fit together."""
    return {"unet": UNet}[config.kind](config)
