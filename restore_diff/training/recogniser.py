"""The part of a network that recognises the weather, to be trained by itself."""

from torch import Tensor, nn

from restore_diff.tensors import Images, Timesteps


class Recogniser(nn.Module):
    """(x_t, t, degraded) -> logits, with nothing of `network` left to train but its `weather_head`.

    Raises ValueError for a network without one.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        head = getattr(network, "weather_head", None)
        if head is None:
            raise ValueError("part=recognition needs a network with model.recognise=true")
        network.requires_grad_(False)
        head.requires_grad_(True)
        self.network = network

    def forward(self, x_t: Images, t: Timesteps, degraded: Images) -> Tensor:
        return self.network.recognise(x_t, t, degraded)  # type: ignore[operator]


def all_but_recognition(network: nn.Module) -> nn.Module:
    """The network, with its `weather_head`, where it has one, left as it is: the loss does not ask it."""
    head = getattr(network, "weather_head", None)
    if head is not None:
        head.requires_grad_(False)
    return network
