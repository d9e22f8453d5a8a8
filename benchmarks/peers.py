"""Compare with the code of other projects, on the same weights, images and machine, alternating within one run.

python benchmarks/peers.py --weatherdiffusion CLONE --ckpt runs/derain --pair DEGRADED CLEAN --only sampler-trained ...

CLONE is a clone of https://github.com/IGITUGraz/WeatherDiffusion; `network` needs none. Parts (`--only`, default all):
  sampler-trained   its sampler (25 leading steps, 64 px patches 16 px apart) and ours, one trained network
  sampler-base      the same with its network of 83 million parameters, random weights, few steps: time only
  network           diffusers' UNet2DModel and ours with the same weights, whole image, per network call
  training          its training step and ours: the network of 83 million parameters, one batch
"""

import argparse
import json
import types
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from gpu import in_turn, machine
from torch import Tensor, nn

from restore_diff import build, trained
from restore_diff.config import ExperimentConfig, load_config
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.loading import Batch
from restore_diff.diffusion.loss import GaussianDiffusion
from restore_diff.diffusion.prediction import estimate
from restore_diff.diffusion.samplers import SAMPLERS
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.interop.diffusers import unet2d_config
from restore_diff.metrics.protocols import PROTOCOLS
from restore_diff.models.unet import Network
from restore_diff.restoration.restorer import Noise, Restorer
from restore_diff.settings import TilingConfig
from restore_diff.training.optimisation import Optimisation

PATCH, STRIDE, NUM_STEPS = 64, 16, 25
"""Of WeatherDiffusion."""

OURS = {
    "same grid": ({}, {"tile_size_px": 64, "tile_overlap_px": 48, "window": "box"}),
    "smooth window, 16 px overlap": ({}, {"tile_size_px": 64, "tile_overlap_px": 16}),
    "tiles of 256 px, 32 px overlap": ({}, {"tile_size_px": 256, "tile_overlap_px": 32}),
    "shifted grid of 128 px": ({}, {"tile_size_px": 128, "grid": "shifted"}),
    "whole image": ({}, {"tile_size_px": 0}),
    "the recipe": ({"num_steps": 1, "spacing": "trailing", "clip": True}, {"tile_size_px": 0}),
}


TRAINED_AT = ("float32", "bfloat16")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = arguments(argv)
    result: dict[str, Any] = {"machine": machine(args.device), "threads": torch.get_num_threads()}
    for part in args.only:
        result[part] = PARTS[part](args)
        print(part, json.dumps(result[part], indent=1), flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return result


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weatherdiffusion", type=Path, metavar="CLONE")
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument(
        "--pair",
        type=Path,
        nargs=2,
        metavar=("DEGRADED", "CLEAN"),
        help="default: a photograph of scikit-image and rendered rain",
    )
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--device", type=trained.select_device, default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=128, help="side of the image in px for sampler-base and network")
    parser.add_argument("--batch-size", type=int, default=4, help="crops of a training step")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test: numbers without meaning")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    if args.weatherdiffusion is None and set(args.only) != {"network"}:
        parser.error("--weatherdiffusion CLONE is missing; only --only network does without")
    if args.tiny:
        args.size, args.batch_size = 64, 1
    return args


def sampler_trained(args: argparse.Namespace) -> dict[str, Any]:
    """PSNR of RGB in [0, 1] against the clean image, and between the two results."""
    _, config, weights = trained.load_experiment(args.ckpt)
    model = trained.trained_network(config, weights, args.device)
    name, degraded, clean = named_pair(args)
    noise = Noise(degraded.shape[1:], [name], 0, (0, degraded.shape[-2]))(0).to(args.device)  # same as ours
    schedule = NoiseSchedule(config.schedule)

    def epsilon(inputs: Tensor, t: Tensor) -> Tensor:
        """Our network with the signature of theirs; converts its output to epsilon."""
        condition, x_t = inputs[:, :3], inputs[:, 3:]
        steps = t.long().expand(len(x_t))
        levels = schedule.signal(steps, x_t), schedule.noise(steps, x_t)
        output = model(x_t, steps, condition)
        return estimate(config.diffusion.prediction, output, x_t, *levels, condition).epsilon

    theirs = their_sampler(args.weatherdiffusion)
    ours = {case: restorer(config, model, sampling, tiling, args.device) for case, (sampling, tiling) in OURS.items()}
    actions = [lambda: theirs(epsilon, degraded, noise)]
    actions += [lambda it=it: it.restore(degraded, [name]) for it in ours.values()]
    seconds, results = in_turn(actions, args.repeats, args.device)
    table = {"WeatherDiffusion": {"seconds": round(seconds[0], 4), "psnr": rgb_psnr(results[0], clean)}}
    for case, time_taken, result in zip(ours, seconds[1:], results[1:], strict=True):
        table[case] = {
            "seconds": round(time_taken, 4),
            "times_faster": round(seconds[0] / time_taken, 1),
            "psnr": rgb_psnr(result, clean),
            "psnr_to_theirs": rgb_psnr(result, results[0]),
        }
    return {"size_px": f"{degraded.shape[-1]}x{degraded.shape[-2]}", "num_steps": NUM_STEPS, "table": table}


def named_pair(args: argparse.Namespace) -> tuple[str, Tensor, Tensor]:
    """Name, degraded and clean image, (1, 3, height, width) in [0, 1] on the device."""
    if args.pair:
        name = args.pair[0].name
        degraded, clean = (read_rgb_uint8(path).float() / 255 for path in args.pair)
    else:
        config = load_config(["derain.yaml"])
        pair = build.images(config, build.test_set(config, "skimage"))[0]
        assert pair.degraded is not None
        name, degraded, clean = pair.name, pair.degraded, pair.clean
    side = args.size if args.tiny else max(degraded.shape)
    degraded, clean = (image[None, :, :side, :side].to(args.device) for image in (degraded, clean))
    return name, degraded, clean


def sampler_base(args: argparse.Namespace) -> dict[str, Any]:
    """Time only, with random weights and 2 of the 25 steps."""
    network = their_network(args.weatherdiffusion).to(args.device)
    config = load_config(["weatherdiff64.yaml"], ["sampler.num_steps=2"])
    model = trained.to_restore(build.network(config), args.device)
    image = torch.rand(1, 3, args.size, args.size, device=args.device)
    noise = torch.randn_like(image)
    theirs = their_sampler(args.weatherdiffusion)
    tilings = {name: tiling for name, (_, tiling) in OURS.items() if name != "the recipe"}
    ours = {name: restorer(config, model, {"num_steps": 2}, tiling, args.device) for name, tiling in tilings.items()}
    actions = [lambda: theirs(network, image, noise, num_steps=2)]
    actions += [lambda it=it: it.restore(image, ["image"]) for it in ours.values()]
    seconds, _ = in_turn(actions, 1, args.device)
    faster = {name: round(seconds[0] / taken, 2) for name, taken in zip(ours, seconds[1:], strict=True)}
    return {
        "size_px": args.size,
        "seconds_theirs": round(seconds[0], 4),
        "table": {n: {"times_faster": f} for n, f in faster.items()},
    }


def network(args: argparse.Namespace) -> dict[str, Any]:
    table = {}
    sizes, modes = (("tiny",), ("eager",)) if args.tiny else (("tiny", "base"), ("eager", "compiled"))
    for size, dtype, mode in product(sizes, (torch.float32, torch.bfloat16), modes):
        if args.device.type != "cpu" or (size, mode) != ("base", "compiled"):  # minutes of compilation on a CPU
            table[f"{size} {mode} {str(dtype)[6:]}"] = one_network(size, dtype, mode, args)
    return {"size_px": args.size, "table": table}


def one_network(size: str, dtype: torch.dtype, mode: str, args: argparse.Namespace) -> dict[str, float]:
    config = load_config(["derain.yaml", f"sizes/{size}.yaml"], ["model.unshuffle=1"])
    ours = trained.to_restore(build.network(config), args.device)
    peer: nn.Module = UNet2DModel(**{k: v for k, v in unet2d_config(config.model).items() if k[0] != "_"}).eval()
    peer.load_state_dict(ours.state_dict())
    peer.to(args.device)
    inputs = torch.randn(1, 6, args.size, args.size, device=args.device)
    t = torch.tensor([500], device=args.device)
    a, b = (torch.compile(net) if mode == "compiled" else net for net in (peer, ours))

    def run(call: Callable[[], object]) -> None:
        with torch.inference_mode(), torch.autocast(args.device.type, dtype, enabled=dtype != torch.float32):
            call()

    actions = [
        lambda: run(lambda: a(inputs, t)),
        lambda: run(lambda: b(inputs[:, 3:], t, inputs[:, :3])),
    ]
    (theirs, own), _ = in_turn(actions, 3 * args.repeats, args.device)
    return {"diffusers_s": round(theirs, 5), "ours_s": round(own, 5), "times_faster": round(theirs / own, 3)}


def training(args: argparse.Namespace) -> dict[str, Any]:
    """Forward, backward, update and average of a batch of crops; theirs: its loss, Adam and EMAHelper, in float32."""
    ddm = load_source(args.weatherdiffusion / "models/ddm.py", drop=("import utils\n", "from models.unet"))
    net = their_network(args.weatherdiffusion).train().to(args.device)
    ema = ddm.EMAHelper()
    ema.register(net)
    adam = torch.optim.Adam(net.parameters(), lr=2e-5)
    betas = torch.linspace(1e-4, 0.02, 1000, device=args.device)
    num = args.batch_size
    clean, degraded = torch.rand(2, num, 3, PATCH, PATCH, device=args.device)

    def their_step() -> None:
        x = 2 * torch.cat([degraded, clean], dim=1) - 1
        half = torch.randint(0, 1000, (num // 2 + 1,), device=args.device)
        t = torch.cat([half, 999 - half])[:num]
        loss = ddm.noise_estimation_loss(net, x, t, torch.randn_like(clean), betas)
        adam.zero_grad()
        loss.backward()
        adam.step()
        ema.update(net)

    batch = Batch(clean, degraded, list(range(num)), ["crop"] * num)
    ours = [optimisation(precision, args) for precision in TRAINED_AT]
    actions = [their_step, *(lambda it=it: it.advance(0, iter([batch])) for it in ours)]
    (theirs, *seconds), _ = in_turn(actions, args.repeats, args.device)
    table = {
        at: {"s": round(s, 4), "times_faster": round(theirs / s, 3)} for at, s in zip(TRAINED_AT, seconds, strict=True)
    }
    return {"batch_size": num, "theirs_s": round(theirs, 4), "table": table}


def optimisation(precision: str, args: argparse.Namespace) -> Optimisation:
    settings = [f"training.batch_size={args.batch_size}", f"training.precision={precision}"]
    config = load_config(["weatherdiff64.yaml"], settings)
    diffusion = GaussianDiffusion(NoiseSchedule(config.schedule), config.diffusion)
    return Optimisation(build.network(config), diffusion, config.training, 0, args.device)


PARTS = {
    "sampler-trained": sampler_trained,
    "sampler-base": sampler_base,
    "network": network,
    "training": training,
}


def restorer(
    config: ExperimentConfig, model: Network, sampling: dict[str, Any], tiling: dict[str, Any], device: torch.device
) -> Restorer:
    """Our restorer with their 25 leading steps without clipping, changed by the given settings."""
    settings = replace(config.sampler, **{"num_steps": NUM_STEPS, "spacing": "leading", "clip": False, **sampling})
    sampler = SAMPLERS["ddim"](NoiseSchedule(config.schedule), config.diffusion.prediction, settings)
    return Restorer(model, sampler, TilingConfig(**tiling), model.size_multiple, device)


def rgb_psnr(found: Tensor, expected: Tensor) -> float:
    return round(float(PROTOCOLS["rgb_zeropad"].psnr(found.clamp(0, 1), expected)[0]), 2)


# WeatherDiffusion's own network and sampler, loaded from a clone of its repository.


def their_sampler(clone: Path) -> Callable[..., Tensor]:
    """Return their `generalized_steps_overlapping`, linear schedule, on the input's device instead of "cuda"."""
    source = load_source(
        clone / "utils/sampling.py", drop=("import utils.logging",), edit=("to('cuda')", "to(x.device)")
    )

    def sample(network: Callable[..., Tensor], degraded: Tensor, noise: Tensor, num_steps: int = NUM_STEPS) -> Tensor:
        rows, columns = (range(0, side - PATCH + 1, STRIDE) for side in degraded.shape[-2:])
        corners = [(row, column) for row in rows for column in columns]
        levels, betas = range(0, 1000, 1000 // num_steps), torch.linspace(1e-4, 0.02, 1000, device=noise.device)
        steps = source.generalized_steps_overlapping
        xs, _ = steps(noise, degraded, levels, network, betas, corners=corners, p_size=PATCH)
        return ((xs[-1].to(noise.device) + 1) / 2).clamp(0, 1)

    return sample


def their_network(clone: Path) -> torch.nn.Module:
    """Return the network of their configs/allweather.yml."""
    layers = {"ch": 128, "out_ch": 3, "ch_mult": [1, 2, 3, 4], "num_res_blocks": 2, "attn_resolutions": [16]}
    model = types.SimpleNamespace(**layers, dropout=0.0, in_channels=3, resamp_with_conv=True)
    config = types.SimpleNamespace(data=types.SimpleNamespace(image_size=PATCH, conditional=True), model=model)
    return load_source(clone / "models/unet.py").DiffusionUNet(config).eval()


def load_source(path: Path, drop: tuple[str, ...] = (), edit: tuple[str, str] = ("", "")) -> types.ModuleType:
    """Load a source file as a module, without lines that contain one of `drop`, with `edit` = (old, new)."""
    lines = [line for line in path.read_text().splitlines() if not any(part in line + "\n" for part in drop)]
    module = types.ModuleType(path.stem)
    exec(compile("\n".join(lines).replace(*edit), str(path), "exec"), module.__dict__)
    return module


if __name__ == "__main__":
    main()
