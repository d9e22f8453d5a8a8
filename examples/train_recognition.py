"""Train the weather head of a network, alone, on rendered weather, and write a weights file.

python examples/train_recognition.py runs/all_weather -o sees.safetensors data.train=PHOTOGRAPHS data.crop_size_px=320

The head reads features of the network at pure noise, the last t, without a hint. The loss is the cross-entropy of each
label, where it is known. All other weights stay as they are. Settings not given are those of the weights' own config.
"""

import argparse
import math
from pathlib import Path

import torch
from torch.nn import functional as F

from restore_diff import build, trained
from restore_diff.checkpoint import save_weights
from restore_diff.commands.console import BAD_USAGE, OK, USER_ERRORS, complain, count, say
from restore_diff.config import ConfigError, ExperimentConfig, overridden, to_dict
from restore_diff.diffusion.loss import draw_noise
from restore_diff.labels import hints
from restore_diff.models.unet import UNet
from restore_diff.tensors import to_model_range

EMA_DECAY = 0.99
WARMUP_STEPS = 50


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    try:
        _, config, weights = trained.load_experiment(args.weights)
        config = overridden(config, ["model.hint=true", "model.recognise=true", *args.overrides])
        started = trained.with_overrides(config, training__initial_weights=str(args.weights))
        network = trained.initial_network(started).to(trained.select_device(args.device))
        train_head(network, config, args)
        save_weights(args.output, network.state_dict(), to_dict(config), weights.step)
        say(f"wrote {args.output}")
        return OK
    except USER_ERRORS as error:
        complain("train_recognition.py", error)
        return BAD_USAGE


def train_head(network: UNet, config: ExperimentConfig, args: argparse.Namespace) -> None:
    """Train the head in place; its weights become their moving average. Raises ConfigError without rendered weather."""
    pairs, _ = build.training_sets(config)
    if build.renderer(config.data, pairs.pairs) is None:
        raise ConfigError([f"data.weather: {pairs.name} has degraded images of unknown weather; use clean photographs"])
    network.eval().requires_grad_(False)
    assert network.weather_head is not None, "model.recognise is true"
    head = network.weather_head.requires_grad_(True)
    average = {name: value.clone() for name, value in head.state_dict().items()}
    optimizer = torch.optim.AdamW(head.parameters(), args.learning_rate, weight_decay=args.weight_decay)
    batches = build.batches(config, pairs).iter_from(0)
    total = 0.0
    for step in range(args.num_steps):
        loss = sum(step_loss(network, config, next(batches)) for _ in range(config.training.num_micro_batches))
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / WARMUP_STEPS)
            group["lr"] = args.learning_rate * warm * (1 + math.cos(math.pi * step / args.num_steps)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        for name, value in head.state_dict().items():
            average[name].lerp_(value, 1 - decay)
        total += loss.item()
        if (step + 1) % args.log_every == 0:
            say(f"step {step + 1}  loss {total / args.log_every:.4f}")
            total = 0.0
    head.load_state_dict(average)


def step_loss(network: UNet, config: ExperimentConfig, batch) -> torch.Tensor:
    """Mean cross-entropy over the global batch: 0 for samples whose weather is unknown."""
    device = next(network.parameters()).device
    degraded = to_model_range(batch.degraded.to(device))
    last = torch.full((len(degraded),), config.schedule.num_timesteps - 1, device=device)
    logits = network.recognise(draw_noise(degraded, batch.positions, config.seed), last, degraded)
    wanted = hints(batch.weathers, config.model.labels).to(device)
    known = torch.tensor([weather is not None for weather in batch.weathers], device=device)
    errors = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
    return (errors * known).sum() / config.training.batch_size


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("weights", type=Path, help="run, checkpoint or weights file of the network")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings, e.g. data.train=PHOTOGRAPHS"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument("--num-steps", type=count(1), default=4000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.5)
    parser.add_argument("--log-every", type=count(1), default=100)
    parser.add_argument("--device", default="auto")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
