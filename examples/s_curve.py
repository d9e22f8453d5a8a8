"""Diffusion in two dimensions. If diffusion is new to you, begin here: it trains in a minute on a CPU.

python examples/s_curve.py s_curve.png

Each sample is a point (x, y) on a curve in the shape of an S. A network learns to turn normal noise into new points of
that curve. Noise schedule, loss and sampler are those that restore photographs in this package, unchanged. A photograph
is a point, too: in 3 x height x width dimensions instead of 2.
"""

import argparse
import math

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from restore_diff.diffusion.loss import GaussianDiffusion, draw_timesteps
from restore_diff.diffusion.samplers import SAMPLERS
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.randomness import generator
from restore_diff.settings import DiffusionConfig, SamplerConfig, ScheduleConfig

BATCH_SIZE, NUM_TIMESTEPS, NUM_TIMES_SHOWN = 512, 100, 10


def s_curve(num_points: int, seed: int) -> Tensor:
    """The data, called x_0: points (num_points, 2) within about [-1, 1], with a little noise across the line."""
    random = generator(seed, "s-curve")
    angle = 3 * math.pi * (torch.rand(num_points, generator=random) - 0.5)
    points = torch.stack([angle.sin(), angle.sign() * (angle.cos() - 1) / 2], dim=1)
    return points + 0.03 * torch.randn(num_points, 2, generator=random)


class NoisePredictor(nn.Module):
    """The network: (x_t, t) -> the noise in x_t. The U-Net for photographs has the same signature.

    It must know t, because at each noise level the best answer at a position is another one. So each layer adds a
    learned vector for t, from an embedding table. `degraded` is the condition of restoration; here there is none.
    """

    def __init__(self, width: int = 128, depth: int = 4):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width if place else 2, width) for place in range(depth))
        self.embeddings = nn.ModuleList(nn.Embedding(NUM_TIMESTEPS, width) for _ in range(depth))
        self.out = nn.Linear(width, 2)

    def forward(self, x_t: Tensor, t: Tensor, degraded: None = None) -> Tensor:
        for layer, embedding in zip(self.layers, self.embeddings, strict=True):
            x_t = nn.functional.silu(layer(x_t) + embedding(t))
        return self.out(x_t)


def train(network: nn.Module, diffusion: GaussianDiffusion, points: Tensor, num_steps: int) -> None:
    """Add noise to data and let the network find it (Ho et al., 2020, algorithm 1)."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for step in range(num_steps):
        chosen = torch.randint(len(points), (BATCH_SIZE,), generator=generator(0, "batch", step))
        # Antithetic: with each t comes T - 1 - t. Each batch has little and much noise, so its loss varies less.
        t = draw_timesteps("antithetic", 0, BATCH_SIZE, BATCH_SIZE, NUM_TIMESTEPS, seed=0, step=step)
        epsilon = torch.randn(BATCH_SIZE, 2, generator=generator(0, "noise", step))
        # x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon; the loss is |epsilon - network(x_t, t)|^2.
        loss = diffusion.loss(network, points[chosen], None, t, epsilon).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        if (step + 1) % max(1, num_steps // 5) == 0:
            print(f"step {step + 1}  loss {loss.item():.2f}  (1: nothing learned; 0: out of reach)")


def sliced_wasserstein(first: Tensor, second: Tensor, num_directions: int = 200) -> float:
    """Transport distance of two equally large clouds projected on a line, mean over lines (Bonneel et al., 2015)."""
    angle = torch.arange(num_directions) * math.pi / num_directions
    lines = torch.stack([angle.cos(), angle.sin()])
    return ((first @ lines).sort(0).values - (second @ lines).sort(0).values).abs().mean().item()  # pairs by order


def draw(path: str, rows: dict[str, list[Tensor]]) -> None:
    """Draw the clouds of each process at equal times in a row; a cloud's place in the list is its t."""
    figure = Figure(figsize=(2 * NUM_TIMES_SHOWN, 4.4), layout="constrained")
    for line, (name, clouds) in zip(figure.subplots(len(rows), NUM_TIMES_SHOWN), rows.items(), strict=True):
        for axes, t in zip(line, torch.linspace(0, NUM_TIMESTEPS, NUM_TIMES_SHOWN).round().int().tolist(), strict=True):
            axes.scatter(*clouds[t].T, s=1, alpha=0.2, linewidths=0)
            axes.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal", xticks=[], yticks=[], title=f"{name}, t = {t}")
    figure.savefig(path, dpi=100)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("picture", help="PNG to write: the forward process, and below it the reverse process")
    parser.add_argument("--num-steps", type=int, default=6000, help="of training (default: 6000)")
    parser.add_argument("--num-points", type=int, default=10_000, help="in each sample (default: 10000)")
    args = parser.parse_args(argv)
    points, held_out, another = (s_curve(args.num_points, seed) for seed in range(3))

    # 1. The schedule: step t mixes in noise of variance beta_t; after T steps nothing of the data is left.
    schedule = NoiseSchedule(ScheduleConfig(name="sigmoid", num_timesteps=NUM_TIMESTEPS))
    # 2. Training never runs the process: x_t for any t comes from x_0 in one line. Only sampling takes T steps.
    diffusion = GaussianDiffusion(schedule, DiffusionConfig())
    torch.manual_seed(0)
    network = NoisePredictor()
    train(network, diffusion, points, args.num_steps)
    # 3. Sampling starts from noise. Each step removes a part of the noise that the network finds, and adds a little
    #    fresh noise: that is eta=1, ancestral (algorithm 2). With eta=0 the same loop is DDIM, which can skip steps.
    sampler = SAMPLERS["ddim"](schedule, "epsilon", SamplerConfig(num_steps=NUM_TIMESTEPS, eta=1.0, clip=False))
    fresh = [torch.randn(args.num_points, 2, generator=generator(0, "sample", k)) for k in range(NUM_TIMESTEPS + 1)]
    states: list[Tensor] = []
    sampled = sampler.sample(network, None, fresh.__getitem__, lambda step, x_t, estimate: states.append(x_t))
    # 4. New points have no right answer to compare with, so compare whole clouds. Two clouds of true data differ, too,
    #    because they are finite: that distance is the floor, and a good model comes near it.
    print(f"sliced Wasserstein distance to held-out points: {sliced_wasserstein(sampled, held_out):.4f}")
    print(f"that of a true sample, the floor:               {sliced_wasserstein(another, held_out):.4f}")
    # 5. In each column of the picture both clouds have the same distribution: the network has learned to reverse time.
    forward = [diffusion.add_noise(held_out, torch.full((len(held_out),), t), fresh[t]) for t in range(NUM_TIMESTEPS)]
    draw(args.picture, {"forward": [held_out, *forward], "reverse": [sampled, *reversed(states)]})


if __name__ == "__main__":
    main()
