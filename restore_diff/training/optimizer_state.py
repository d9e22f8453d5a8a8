"""The optimizer's state as plain tensors named after the parameters, so that a file of it needs no pickle."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

ADAMW_KEYS = {"step", "exp_avg", "exp_avg_sq"}
MUON_KEYS = {"step", "exp_avg"}
"""What is kept for a parameter, and for a matrix of Muon."""


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
    # load_state_dict puts the step counters where this optimizer wants them, on the device or not.
    names = {id(parameter): name for name, parameter in parameters.items()}
    indexed: dict[int, dict[str, Tensor]] = {}
    number = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            if name in state:
                indexed[number] = _complete(name, state[name], MUON_KEYS if group.get("orthogonal") else ADAMW_KEYS)
            number += 1
    optimizer.load_state_dict({"state": indexed, "param_groups": optimizer.state_dict()["param_groups"]})


def _complete(name: str, values: dict[str, Tensor], keys: set[str]) -> dict[str, Tensor]:
    if values.keys() != keys:
        wrong = ", ".join(sorted(values.keys() ^ keys))
        raise ValueError(f"optimizer state of {name} has not what this optimizer keeps, or more: {wrong[:100]}")
    return values


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
