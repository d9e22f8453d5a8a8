"""LPIPS as part of the training loss: sharper restorations, at a small cost in PSNR (docs/results/all_weather.md).

python train.py --cfg all_weather.yaml "plugins=[examples/perceptual_loss.py]" diffusion.loss=perceptual

Adds weight x LPIPS(alex) of the clean estimate for the samples at the greatest t of the batch, which is the last t with
diffusion.timesteps=late: there sampling in one step starts (Zhang et al., "The unreasonable effectiveness of deep
features as a perceptual metric", CVPR 2018). The trunk's weights are found as by test.py.
"""

import torch
from pydantic import Field

from restore_diff import LOSSES
from restore_diff.metrics.perceptual import LPIPS
from restore_diff.settings import DiffusionConfig, settings


@settings
class Perceptual:
    weight: float = Field(default=0.1, ge=0, description="weight of LPIPS against the squared error")


class PerceptualLoss:
    Settings = Perceptual

    def __init__(self, config: DiffusionConfig, options: Perceptual):
        self.weight = options.weight
        self.distance = LPIPS("alex").distance

    def __call__(self, estimate, batch, level):
        loss = (level.weight * estimate.epsilon_error.square()).flatten(1).mean(1)
        last = torch.nonzero(level.t == level.t.max()).flatten()
        pairs = (images.float().index_select(0, last) for images in (estimate.clean.clamp(-1, 1), batch.clean))
        with torch.autocast(batch.clean.device.type, enabled=False):
            distance = self.distance.to(batch.clean.device)(*pairs).flatten()
        return loss.index_add(0, last, self.weight * distance.to(loss.dtype))


LOSSES["perceptual"] = PerceptualLoss
