"""What Winograd's algorithm gives each wide convolution of `base` on this CPU, and what it costs in accuracy.

python benchmarks/winograd.py --out benchmarks/results/winograd.json

`layers`: milliseconds of a step forward and back, float32, channels last, the sum itself and Winograd's in turn; errors
are root mean squares over the deviation. Where `pays` is false the network takes the sum. `network`: one call on
256x256 px with random weights: seconds, and the largest difference to the same in float64.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from speed import machine, timed
from torch import Tensor

from restore_diff import build
from restore_diff.config import load_config
from restore_diff.models import winograd
from restore_diff.models.layers import Convolution3x3
from restore_diff.models.networks import Network
from restore_diff.trained import to_restore

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    network = build.network(load_config(["weatherdiff64.yaml"], []))
    result: dict[str, Any] = {"machine": machine(CPU), "batch_size": args.batch_size, "layers": []}
    for (shape, out), number in layers(network, args.batch_size).items():
        result["layers"].append({"input": shape, "out": out, "number": number, **one_layer(shape, out, args.repeats)})
        print(result["layers"][-1], flush=True)
    result["network"] = whole(network, args.repeats)
    print(result["network"])
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def layers(network: Network, batch_size: int) -> Counter[tuple[tuple[int, ...], int]]:
    """How many there are of each shape of input and number of output channels, at crops of 64 px."""
    seen: Counter[tuple[tuple[int, ...], int]] = Counter()
    handles = [
        module.register_forward_hook(
            lambda layer, given, _: seen.update([(tuple(given[0].shape), layer.out_channels)])  # type: ignore[union-attr]
        )
        for module in network.modules()
        if isinstance(module, Convolution3x3)
    ]
    with torch.inference_mode():
        x_t, degraded = torch.rand(2, batch_size, 3, 64, 64)
        network.eval()(x_t, torch.full((batch_size,), 500), degraded)
    for handle in handles:
        handle.remove()
    return seen


def one_layer(shape: tuple[int, ...], out: int, repeats: int) -> dict[str, Any]:
    features, above = (
        torch.randn(size).contiguous(memory_format=torch.channels_last) for size in (shape, (shape[0], out, *shape[2:]))
    )
    weight, bias = torch.randn(out, shape[1], 3, 3) / (9 * shape[1]) ** 0.5, torch.zeros(out)
    given = tuple(tensor.requires_grad_() for tensor in (features, weight, bias))
    convolutions = {"direct": direct, "winograd": winograd.convolution}
    steps = [lambda it=it: torch.autograd.grad(it(*given), given, above) for it in convolutions.values()]
    seconds = timed(steps, CPU, repeats)
    row: dict[str, Any] = {f"{name}_ms": round(1e3 * s, 2) for name, s in zip(convolutions, seconds, strict=True)}
    row["times_faster"] = round(seconds[0] / seconds[1], 2)
    with torch.no_grad():
        exact = direct(*(tensor.double() for tensor in given))
        for name, convolution in convolutions.items():
            error = (convolution(*given) - exact).square().mean().sqrt() / exact.std()
            row[f"{name}_error"] = float(f"{error:.1e}")
    return row | {"pays": winograd.pays(features, weight)}


def direct(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(features, weight, bias, padding=1)


def whole(network: Network, repeats: int) -> dict[str, Any]:
    """`repeats` calls in turn. What starts at zero is made random, for all layers to count."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any() and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    network = to_restore(network, CPU)
    given = torch.randn(1, 3, 256, 256), torch.tensor([500]), torch.randn(1, 3, 256, 256)

    def call(by_winograd: bool) -> Tensor:
        for module in network.modules():
            if isinstance(module, Convolution3x3):
                module.train(by_winograd)
        return network(*given)

    with torch.inference_mode():
        seconds = timed([lambda: call(False), lambda: call(True)], CPU, repeats)
        found = [call(False), call(True)]
        given = given[0].double(), given[1], given[2].double()
        exact = network.double()(*given)
    difference = {name: float((f - exact).abs().max()) for name, f in zip(("direct", "winograd"), found, strict=True)}
    between = float((found[0] - found[1]).abs().max())
    return {"direct_s": seconds[0], "winograd_s": seconds[1], "to_float64": difference, "between": between}


if __name__ == "__main__":
    main()
