"""The optimizer's state as plain tensors named after the parameters, so that a file of it needs no pickle."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

KEYS = {"step", "exp_avg", "exp_avg_sq"}
"""What AdamW keeps for a parameter."""


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """E.g. `conv_in.weight/exp_avg`. Rates and the like are not in it: they follow from the config and the step."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def load_optimizer_tensors(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Go on from `optimizer_tensors`. Raises ValueError for a name, shape or type that the model does not have."""
    parameters = dict(model.named_parameters())
    state: dict[str, dict[str, Tensor]] = {}
    for path, saved in tensors.items():
        name, _, key = path.rpartition("/")
        if name not in parameters:
            raise ValueError(f"optimizer state of {(name or path)[:100]}, which the model does not have")
        state.setdefault(name, {})[key] = _like(parameters[name], path, key, saved)
    for name, values in state.items():
        if values.keys() != KEYS:
            wrong = ", ".join(sorted(values.keys() ^ KEYS))
            raise ValueError(f"optimizer state of {name} has not what AdamW keeps, or more: {wrong[:100]}")
    # load_state_dict puts the step counters where this optimizer wants them, on the device or not.
    numbers = {name: number for number, name in enumerate(parameters)}
    indexed = {numbers[name]: values for name, values in state.items()}
    optimizer.load_state_dict({"state": indexed, "param_groups": optimizer.state_dict()["param_groups"]})


def _like(parameter: Tensor, path: str, key: str, saved: Tensor) -> Tensor:
    """A copy with the parameter's strides, which fused kernels want equal and which files do not keep."""
    wanted = torch.Size() if key == "step" else parameter.shape
    if saved.shape != wanted:
        raise ValueError(f"optimizer state {path} has shape {tuple(saved.shape)}, the model {tuple(wanted)}")
    if saved.dtype != torch.float32:
        raise ValueError(f"optimizer state {path} is {saved.dtype}, not float32")
    if key == "step":
        return saved.clone()
    return torch.empty_like(parameter).copy_(saved)
