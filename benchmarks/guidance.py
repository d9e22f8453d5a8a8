"""Guidance measured: classifier-free over the weather label, and zero-shot tasks with an unconditional prior.

python benchmarks/guidance.py label --ckpt shipped --data rain100l --root PATH --weather rain --limit 12
python benchmarks/guidance.py zero-shot --ckpt runs/prior --photographs FOLDER --lpips-weights FILE

label: w of Ho & Salimans (2022), eq. 6, beside the network without label. zero-shot: centre crops are degraded, rounded
to 8 bits, and restored by the prior and by a simple method: mean of neighbours, bicubic, Wiener. Prints Markdown rows.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

import restore_diff as rd
from restore_diff import build, trained
from restore_diff.data.images import read_rgb_uint8
from restore_diff.diffusion.operators import Colorize, filtered, operator_of
from restore_diff.evaluation.evaluator import Scorer, quantize
from restore_diff.metrics.perceptual import LPIPS
from restore_diff.randomness import generator
from restore_diff.tensors import Images

CPU = torch.device("cpu")
SCALES = (0.0, 0.25, 0.5, 1.0)
TASKS = ("inpaint", "sr:2", "sr:4", "deblur:1.5", "colorize")


def label(args: argparse.Namespace) -> None:
    """PSNR and SSIM without label, with label, and guided."""
    path, config, weights = trained.load_experiment(args.ckpt)
    network = trained.trained_network(config, weights, CPU)
    config = build.with_overrides(
        config, data__root=args.root, sampler__num_steps=args.steps, sampler__num_samples=1, sampler__mirror=False
    )
    images = build.images(config, build.test_set(config, args.data))
    pairs = [images[index] for index in range(min(args.limit, len(images)))]
    score = Scorer([args.protocol])
    print(f"{path}, {len(pairs)} pairs", "| guidance | PSNR | SSIM |", "|---|---:|---:|", sep="\n")
    for scale in (None, *SCALES):
        guided = config
        if scale is not None:
            guided = build.with_overrides(
                config, sampler__guidance="classifier_free", sampler__guidance_options={"scale": scale}
            )
        restorer = build.restorer(guided, network, CPU, "float32", args.weather if scale is not None else "unknown")
        scores = []
        for pair in pairs:
            assert pair.degraded is not None
            found = quantize(restorer.restore(pair.degraded[None], [pair.name]))[0]
            scores.append(score(found, quantize(pair.clean[None])[0]))
        means = [fmean(one[f"{name}_{args.protocol}"] for one in scores) for name in ("psnr", "ssim")]
        print(f"| {'no label' if scale is None else f'w = {scale}'} | {means[0]:.2f} | {means[1]:.4f} |", flush=True)


def scratched(size: int, name: str) -> Tensor:
    """A mask (size, size), True where a pixel is missing: six scratches of 3 px and twelve drops of 3 to 8 px."""
    draw = lambda low, high: int(torch.randint(low, high, (), generator=random))  # noqa: E731
    random = generator(0, "mask", name)
    mask = Image.new("1", (size, size))
    pen = ImageDraw.Draw(mask)
    for _ in range(6):
        pen.line([(draw(0, size), draw(0, size)) for _ in range(2)], fill=1, width=3)
    for _ in range(12):
        x, y, radius = draw(0, size), draw(0, size), draw(3, 9)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return torch.from_numpy(np.array(mask))


def degraded(task: str, clean: Images, name: str) -> Images:
    """The input of a task, rounded to 8 bits; NaN where it is missing."""
    name_of_task, _, value = task.partition(":")
    match name_of_task:
        case "inpaint":
            return clean.masked_fill(scratched(clean.shape[-1], name), torch.nan)
        case "sr":
            images = F.avg_pool2d(clean, int(value))
        case "colorize":
            images = torch.einsum("bchw,c->bhw", clean, torch.tensor(Colorize.LUMA))[:, None].repeat(1, 3, 1, 1)
        case _:
            images = -operator_of(task).residual(clean, torch.zeros_like(clean))
    return quantize(images).float() / 255


def by_hand(task: str, images: Images) -> Images:
    """The restoration by a method without learning; for colours, the grey image itself."""
    name, _, value = task.partition(":")
    match name:
        case "inpaint":
            return mean_of_neighbours(images)
        case "sr":
            return F.interpolate(images, scale_factor=int(value), mode="bicubic", align_corners=False).clamp(0, 1)
        case "deblur":
            return wiener(images, float(value)).clamp(0, 1)
    return images


def mean_of_neighbours(images: Images) -> Images:
    """Fill NaN from the rim inwards, each pixel with the mean of its known neighbours of 3x3."""
    while bool(images.isnan().any()):
        known = (~images.isnan()).float()
        total, number = (F.avg_pool2d(v, 3, 1, padding=1) for v in (images.nan_to_num(), known))
        images = torch.where(images.isnan(), total / number, images)  # 0 / 0 stays NaN until a neighbour is known
    return images


def wiener(images: Images, sigma: float, noise_to_signal: float = 1e-3) -> Images:
    """Wiener filter of a Gaussian blur, mirrored at the borders."""
    return filtered(images, lambda damping: damping / (damping**2 + noise_to_signal), sigma)


def zero_shot(args: argparse.Namespace) -> None:
    """PSNR and LPIPS of the input, of the simple method and of the prior."""
    score = Scorer(["rgb"], LPIPS("alex", args.lpips_weights), ["psnr"])
    paths = sorted(args.photographs.glob("*.png"))[:: args.every][: args.limit]
    crops = dict(_crops(paths, args.crop))
    methods = {task: methods_of(task, args) for task in args.tasks}
    print(f"{len(crops)} crops of {args.crop} px, {' '.join(args.set)}")
    print("| task | " + " | ".join(f"{m} PSNR | LPIPS" for m in next(iter(methods.values()))) + " |", flush=True)
    for task in args.tasks:
        cells = []
        for restore in methods[task].values():
            scores = []
            for name, clean in crops.items():
                found = restore(degraded(task, clean, name), name)
                scores.append(score(quantize(found)[0], quantize(clean)[0]))
            cells += [f"{fmean(s['psnr_rgb'] for s in scores):.2f}", f"{fmean(s['lpips_alex'] for s in scores):.4f}"]
        print(f"| {task} | " + " | ".join(cells) + " |", flush=True)


def methods_of(task: str, args: argparse.Namespace) -> dict[str, Callable[[Images, str], Images]]:
    restorer = rd.load(args.ckpt, device="cpu", dtype=args.dtype, zero_shot=task, overrides=args.set)
    prior = {"prior": lambda images, name: restorer(images, name=name)}
    return prior if args.prior_only else {"by hand": lambda images, name: by_hand(task, images), **prior}


def _crops(paths: list[Path], size: int) -> Iterator[tuple[str, Images]]:
    for path in paths:
        image = read_rgb_uint8(path)
        top, left = ((side - size) // 2 for side in image.shape[1:])
        yield path.name, image[None, :, top : top + size, left : left + size].float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    add = commands.add_parser("label")
    add.set_defaults(run=label)
    add.add_argument("--ckpt", type=Path)
    add.add_argument("--data", required=True)
    add.add_argument("--root", default="data")
    add.add_argument("--weather", required=True)
    add.add_argument("--protocol", default="y_matlab")
    add.add_argument("--limit", type=int, default=12)
    add.add_argument("--steps", type=int, default=1)
    add = commands.add_parser("zero-shot")
    add.set_defaults(run=zero_shot)
    add.add_argument("--ckpt", type=Path, required=True)
    add.add_argument("--photographs", type=Path, required=True, help="folder of PNG files, not trained on")
    add.add_argument("--tasks", nargs="+", default=TASKS)
    add.add_argument("--crop", type=int, default=128)
    add.add_argument("--limit", type=int, default=1000)
    add.add_argument("--every", type=int, default=1, help="every N-th file")
    add.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings, e.g. sampler.num_steps=20")
    add.add_argument("--dtype", default="float32")
    add.add_argument("--prior-only", action="store_true")
    add.add_argument("--lpips-weights", type=Path)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
