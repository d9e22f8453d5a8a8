"""Count how many drawn digits are what was asked for: by label, and with guidance by a classifier or without one.

python train.py --cfg digits.yaml
python examples/digits_labels.py runs/digits -o digits_labels.png

A judge, a classifier of clean images, reads each drawn image; its own errors on test images are printed first. Guidance
makes samples more typical and less varied, so the spread is printed too: the standard deviation over the images of one
digit, relative to that of test images. docs/results/unconditional.md has the numbers of the whole run.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import make_grid

import restore_diff as rd
from restore_diff.config import ExperimentConfig
from restore_diff.data.images import read_rgb_uint8, write_image
from restore_diff.data.pairs import Split, find_pairs
from restore_diff.diffusion.guidance import ClassifierFree, ClassifierFreeSettings, ScoreGuidance, classifier_score
from restore_diff.diffusion.loss import GaussianDiffusion, draw_timesteps
from restore_diff.diffusion.samplers import Guidance
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.files import bundled
from restore_diff.randomness import generator
from restore_diff.registry import load_plugins
from restore_diff.tensors import Images, to_model_range

NUM_DIGITS = 10
BATCH_SIZE = 64


class Classifier(nn.Module):
    """(x_t (B,3,H,W), t) -> logits (B, 10). For the judge, t is always 0."""

    def __init__(self, num_timesteps: int, width: int = 16):
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.step = nn.Embedding(num_timesteps, width)
        self.conv = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.out = nn.LazyLinear(NUM_DIGITS)

    def forward(self, x_t: Images, t: Tensor) -> Tensor:
        features = F.relu(self.conv_in(x_t) + self.step(t)[:, :, None, None])
        return self.out(F.relu(self.conv(features)).flatten(1))


def train(images: Images, digits: Tensor, num_steps: int, diffusion: GaussianDiffusion, noisy: bool) -> Classifier:
    """Train a classifier on images in [-1, 1]: on x_t of all t to guide a sampler, or on clean images to judge."""
    torch.manual_seed(0)
    num_timesteps = diffusion.schedule.num_timesteps
    model = Classifier(num_timesteps)
    model(images[:1], torch.zeros(1, dtype=torch.long))  # makes the lazy layer
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(num_steps):
        random = generator(0, "classifier", step)
        chosen = torch.randint(len(images), (BATCH_SIZE,), generator=random)
        x, t = images[chosen], torch.zeros(BATCH_SIZE, dtype=torch.long)
        if noisy:
            t = draw_timesteps("stratified", 0, BATCH_SIZE, BATCH_SIZE, num_timesteps, seed=0, step=step)
            x = diffusion.add_noise(x, t, torch.randn(x.shape, generator=random))
        loss = F.cross_entropy(model(x, t), digits[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def ways(guide: Classifier, digits: Tensor) -> Iterator[tuple[str, bool, Guidance | None]]:
    """(name, whether the network gets the labels, guidance), for each way to ask for digits."""
    yield "nothing asked", False, None
    for scale in (1.0, 3.0, 10.0):
        yield f"classifier guidance, scale {scale:g}", False, ScoreGuidance(classifier_score(guide, digits), scale)
    yield "label", True, None
    for scale in (1.0, 2.0, 4.0):
        yield f"label, classifier-free, w {scale:g}", True, ClassifierFree(ClassifierFreeSettings(scale=scale))


def spread(images: Images, digits: Tensor) -> float:
    """Root of the mean variance of a pixel over the images of one digit."""
    return torch.stack([images[digits == d].var(0).mean() for d in range(NUM_DIGITS)]).mean().sqrt().item()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="run folder of digits.yaml")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG: one row for each way, two of each digit")
    parser.add_argument("--num-per-digit", type=int, default=20, help="images drawn of each digit (default: 20)")
    parser.add_argument(
        "--num-steps", type=int, default=1000, help="training steps of both classifiers (default: 1000)"
    )
    args = parser.parse_args(argv)
    drawer = rd.load(args.run)
    config = drawer.config
    load_plugins(config.plugins, [bundled("configs")])
    diffusion = GaussianDiffusion(NoiseSchedule(config.schedule), config.diffusion)
    (images, labels), (test_images, test_labels) = (read(config, split) for split in ("train", "test"))
    judge = train(images, labels, args.num_steps, diffusion, noisy=False)
    guide = train(images, labels, args.num_steps, diffusion, noisy=True)
    right = (found_by(judge, test_images) == test_labels).float().mean().item()
    print(f"judge: {100 * right:.1f} % of {len(test_labels)} test images right")

    asked = torch.arange(NUM_DIGITS).repeat(args.num_per_digit)
    names, true_spread, rows = [str(d) for d in asked.tolist()], spread(test_images, test_labels), []
    for name, with_label, guidance in ways(guide, asked):
        images = drawer.sample(len(asked), label=names if with_label else None, guidance=guidance).clamp(0, 1)
        rows.append(images[: 2 * NUM_DIGITS])
        drawn = to_model_range(images)
        share = (found_by(judge, drawn) == asked).float().mean().item()
        print(f"{name:35} {100 * share:5.1f} % as asked  spread {spread(drawn, asked) / true_spread:.2f}")
    write_image(args.output, make_grid(torch.cat(rows), nrow=2 * NUM_DIGITS, padding=2, pad_value=1.0))


def read(config: ExperimentConfig, split: Split) -> tuple[Images, Tensor]:
    """Images (N,3,H,W) in [-1, 1] and their digits (N,) of a split of the run's data source."""
    pairs = find_pairs(getattr(config.data, split), split, Path(config.data.root)).pairs
    images = torch.stack([read_rgb_uint8(pair.clean) for pair in pairs]).float() / 255
    return to_model_range(images), torch.tensor([int(pair.weather or "0") for pair in pairs])


def found_by(judge: Classifier, images: Images) -> Tensor:
    return judge(images, torch.zeros(len(images), dtype=torch.long)).argmax(1)


if __name__ == "__main__":
    main()
