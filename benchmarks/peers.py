"""Compare with the code of other projects, on the same weights, images and machine, alternating within one run.

python benchmarks/peers.py --weatherdiffusion CLONE --ckpt runs/derain --pair DEGRADED CLEAN --only sampler-trained ...

CLONE is a clone of https://github.com/IGITUGraz/WeatherDiffusion. Parts (`--only`, default all):
  sampler-trained   its sampler (25 leading steps, 64 px patches 16 px apart) and ours, one trained network
  sampler-base      the same with its network of 83 million parameters, random weights, few steps: time only
  network           diffusers' UNet2DModel and ours with the same weights, whole image, per network call
  training          its training step and ours: the network of 83 million parameters, one batch
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from speed import machine
from torch import Tensor, nn
from weatherdiffusion_code import NUM_STEPS, PATCH, load_source, their_network, their_sampler

from restore_diff import build, trained
from restore_diff.config import ExperimentConfig, load_config
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.loading import Batch
from restore_diff.diffusion.loss import GaussianDiffusion
from restore_diff.diffusion.prediction import estimate
from restore_diff.diffusion.samplers import SAMPLERS
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.interop.diffusers import unet2d_config
from restore_diff.metrics.fidelity import psnr
from restore_diff.models.unet import Network
from restore_diff.restoration.restorer import Noise, Restorer
from restore_diff.settings import TilingConfig
from restore_diff.training.optimisation import Optimisation

CPU = torch.device("cpu")

OURS = {
    "same grid": ({}, {"tile_size_px": 64, "tile_overlap_px": 48, "window": "box"}),
    "smooth window, 16 px overlap": ({}, {"tile_size_px": 64, "tile_overlap_px": 16}),
    "tiles of 256 px, 32 px overlap": ({}, {"tile_size_px": 256, "tile_overlap_px": 32}),
    "shifted grid of 128 px": ({}, {"tile_size_px": 128, "grid": "shifted"}),
    "whole image": ({}, {"tile_size_px": 0}),
    "the recipe": ({"num_steps": 1, "spacing": "trailing", "clip": True}, {"tile_size_px": 0}),
}


TRAINED_AT = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weatherdiffusion", type=Path, required=True)
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--pair", type=Path, nargs=2, metavar=("DEGRADED", "CLEAN"))
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=128, help="side of the image in px for sampler-base and network")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(CPU), "threads": torch.get_num_threads()}
    for part in args.only:
        result[part] = PARTS[part](args)
        print(part, json.dumps(result[part], indent=1), flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def sampler_trained(args: argparse.Namespace) -> dict[str, Any]:
    """PSNR of RGB in [0, 1] against the clean image, and between the two results."""
    _, config, weights = trained.load_experiment(args.ckpt)
    model = trained.trained_network(config, weights, torch.device("cpu"))
    degraded, clean = (read_rgb_uint8(path)[None].float() / 255 for path in args.pair)
    noise = Noise(degraded.shape[1:], [args.pair[0].name], 0, (0, degraded.shape[-2]))(0)  # same as ours
    schedule = NoiseSchedule(config.schedule)

    def epsilon(inputs: Tensor, t: Tensor) -> Tensor:
        """Our network with the signature of theirs; converts its output to epsilon."""
        condition, x_t = inputs[:, :3], inputs[:, 3:]
        steps = t.long().expand(len(x_t))
        levels = schedule.signal(steps, x_t), schedule.noise(steps, x_t)
        output = model(x_t, steps, condition)
        return estimate(config.diffusion.prediction, output, x_t, *levels, condition).epsilon

    theirs = their_sampler(args.weatherdiffusion)
    ours = {name: restorer(config, model, *given) for name, given in OURS.items()}
    actions = [lambda: theirs(epsilon, degraded, noise)]
    actions += [lambda it=it: it.restore(degraded, [args.pair[0].name]) for it in ours.values()]
    seconds, results = in_turn(actions, args.repeats)
    table = {"WeatherDiffusion": {"seconds": seconds[0], "psnr": rgb_psnr(results[0], clean)}}
    for name, time_taken, result in zip(ours, seconds[1:], results[1:], strict=True):
        table[name] = {
            "seconds": time_taken,
            "times_faster": round(seconds[0] / time_taken, 1),
            "psnr": rgb_psnr(result, clean),
            "psnr_to_theirs": rgb_psnr(result, results[0]),
        }
    return {"size_px": f"{degraded.shape[-1]}x{degraded.shape[-2]}", "num_steps": NUM_STEPS, "table": table}


def sampler_base(args: argparse.Namespace) -> dict[str, Any]:
    """Time only, with random weights and 2 of the 25 steps."""
    network = their_network(args.weatherdiffusion)
    config = load_config(["weatherdiff64.yaml"], ["sampler.num_steps=2"])
    model = trained.to_restore(build.network(config), CPU)
    image = torch.rand(1, 3, args.size, args.size)
    noise = torch.randn_like(image)
    theirs = their_sampler(args.weatherdiffusion)
    tilings = {name: tiling for name, (_, tiling) in OURS.items() if name != "the recipe"}
    ours = {name: restorer(config, model, {"num_steps": 2}, tiling) for name, tiling in tilings.items()}
    actions = [lambda: theirs(network, image, noise, num_steps=2)]
    actions += [lambda it=it: it.restore(image, ["image"]) for it in ours.values()]
    seconds, _ = in_turn(actions, 1)
    faster = {name: round(seconds[0] / taken, 2) for name, taken in zip(ours, seconds[1:], strict=True)}
    return {"size_px": args.size, "seconds_theirs": seconds[0], "times_faster": faster}


def network(args: argparse.Namespace) -> dict[str, Any]:
    table = {}
    for size, dtype, mode in product(("tiny", "base"), (torch.float32, torch.bfloat16), ("eager", "compiled")):
        if (size, mode) != ("base", "compiled"):  # minutes of compilation on a CPU
            table[f"{size} {mode} {str(dtype)[6:]}"] = one_network(size, dtype, mode, args)
    return {"size_px": args.size, "table": table}


def one_network(size: str, dtype: torch.dtype, mode: str, args: argparse.Namespace) -> dict[str, float]:
    config = load_config(["derain.yaml", f"sizes/{size}.yaml"], ["model.unshuffle=1"])
    ours = trained.to_restore(build.network(config), CPU)
    peer: nn.Module = UNet2DModel(**{k: v for k, v in unet2d_config(config.model).items() if k[0] != "_"}).eval()
    peer.load_state_dict(ours.state_dict())
    inputs, t = torch.randn(1, 6, args.size, args.size), torch.tensor([500])
    a, b = (torch.compile(net) if mode == "compiled" else net for net in (peer, ours))

    def run(call: Callable[[], object]) -> None:
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            call()

    actions = [
        lambda: run(lambda: a(inputs, t)),
        lambda: run(lambda: b(inputs[:, 3:], t, inputs[:, :3])),
    ]
    (theirs, own), _ = in_turn(actions, 3 * args.repeats)
    return {"diffusers_s": theirs, "ours_s": own, "times_faster": round(theirs / own, 3)}


def training(args: argparse.Namespace) -> dict[str, Any]:
    """Forward, backward, update and average of a batch of 4 crops; theirs: its loss, Adam and EMAHelper, in float32."""
    ddm = load_source(args.weatherdiffusion / "models/ddm.py", drop=("import utils\n", "from models.unet"))
    net = their_network(args.weatherdiffusion).train()
    ema = ddm.EMAHelper()
    ema.register(net)
    adam = torch.optim.Adam(net.parameters(), lr=2e-5)
    betas = torch.linspace(1e-4, 0.02, 1000)
    clean, degraded = torch.rand(4, 3, PATCH, PATCH), torch.rand(4, 3, PATCH, PATCH)

    def their_step() -> None:
        x = 2 * torch.cat([degraded, clean], dim=1) - 1
        half = torch.randint(0, 1000, (3,))
        t = torch.cat([half, 999 - half])[:4]
        loss = ddm.noise_estimation_loss(net, x, t, torch.randn_like(clean), betas)
        adam.zero_grad()
        loss.backward()
        adam.step()
        ema.update(net)

    batch = Batch(clean, degraded, [0, 1, 2, 3], list("abcd"))
    ours = [optimisation(precision) for precision in TRAINED_AT]
    actions = [their_step, *(lambda it=it: it.advance(0, iter([batch])) for it in ours)]
    (theirs, *seconds), _ = in_turn(actions, args.repeats)
    table = {at: {"s": s, "times_faster": round(theirs / s, 3)} for at, s in zip(TRAINED_AT, seconds, strict=True)}
    return {"theirs_s": theirs, "ours": table}


def optimisation(precision: str) -> Optimisation:
    config = load_config(["weatherdiff64.yaml"], ["training.batch_size=4", f"training.precision={precision}"])
    diffusion = GaussianDiffusion(NoiseSchedule(config.schedule), config.diffusion)
    return Optimisation(build.network(config), diffusion, config.training, 0, CPU)


PARTS = {
    "sampler-trained": sampler_trained,
    "sampler-base": sampler_base,
    "network": network,
    "training": training,
}


def restorer(config: ExperimentConfig, model: Network, sampling: dict[str, Any], tiling: dict[str, Any]) -> Restorer:
    """Our restorer with their 25 leading steps without clipping, changed by the given settings."""
    settings = replace(config.sampler, **{"num_steps": NUM_STEPS, "spacing": "leading", "clip": False, **sampling})
    sampler = SAMPLERS["ddim"](NoiseSchedule(config.schedule), config.diffusion.prediction, settings)
    return Restorer(model, sampler, TilingConfig(**tiling), model.size_multiple, "cpu")


def in_turn(actions: list[Callable[[], Any]], repeats: int) -> tuple[list[float], list[Any]]:
    """Return median seconds and last results; alternates in both directions after a warm-up (if repeats > 1)."""
    seconds: list[list[float]] = [[] for _ in actions]
    results: list[Any] = [None] * len(actions)
    for repeat in range(repeats + (repeats > 1)):
        for place in range(len(actions))[:: -1 if repeat % 2 else 1]:  # the action before affects the caches
            started = time.perf_counter()
            results[place] = actions[place]()
            if repeat or repeats == 1:
                seconds[place].append(time.perf_counter() - started)
    return [round(median(taken), 4) for taken in seconds], results


def rgb_psnr(found: Tensor, expected: Tensor) -> float:
    return round(float(psnr(found.clamp(0, 1), expected, quantize=False)[0]), 2)


if __name__ == "__main__":
    main()
