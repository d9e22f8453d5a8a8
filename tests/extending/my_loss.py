"""A loss of one's own: epsilon's error plus a perceptual term on the clean estimate, here on image gradients."""

from pydantic import Field

from restore_diff import LOSSES
from restore_diff.settings import DiffusionConfig, settings


@settings
class EdgeWeight:
    edges: float = Field(default=0.1, ge=0, description="weight of the error of image gradients")


class EdgeLoss:
    Settings = EdgeWeight

    def __init__(self, config: DiffusionConfig, options: EdgeWeight):
        self.edges = options.edges

    def __call__(self, estimate, batch, level):
        plain = (level.weight * estimate.epsilon_error.square()).flatten(1).mean(1)
        error = estimate.clean.clamp(-1, 1) - batch.clean
        gradients = error.diff(dim=-1).abs().flatten(1).mean(1) + error.diff(dim=-2).abs().flatten(1).mean(1)
        return plain + self.edges * gradients


LOSSES["edges"] = EdgeLoss
