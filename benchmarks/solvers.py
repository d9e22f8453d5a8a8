"""What sampling buys: distortion and perception by solver, steps and averages, and calibration of the uncertainty map.

python benchmarks/solvers.py --ckpt runs/derain --data rain100l --root PATH --every 5 --out FILE.json
python benchmarks/solvers.py --data PHOTOGRAPHS --set "data.weather={rain: 1, haze: 1}" --crop 256 --markdown

One network, the same pairs, and the same noise for all settings. Averages of several sizes share their samples.
Rendered weather is given as label; else it is detected. Columns are means over the images:
  calls   network calls for one image
  PSNR-Y, SSIM-Y (y_matlab), LPIPS (Zhang et al., 2018): distance to the clean image
  texture  1 - the mean similarity of means and deviations of AlexNet features, as DISTS has it (Ding et al., 2020) but
           with equal weights and AlexNet instead of VGG: tolerates other texture of the same kind
  FAD      Frechet distance of AlexNet features (third layer, means over patches of 64 px) between all restored and all
           clean patches: FID (Heusel et al., 2017) with AlexNet instead of Inception; comparable within one table only
The map is the standard deviation over samples, against the error of their mean, per pixel and channel:
  ratio   root mean square of error over deviation; 1 is calibrated
  within  share of errors within twice the deviation; 0.95 for a calibrated normal distribution
  rank    Spearman's correlation of deviation and absolute error
  AUSE    area between the sparsification curves of map and error (Ilg et al., 2018), over that of a constant map:
          0 orders pixels as the error does, 1 as chance does. `AUSE of change`: the map |restored - degraded| instead
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from restore_diff import build, trained
from restore_diff.config import ExperimentConfig, overridden
from restore_diff.data.loading import PairedImageDataset
from restore_diff.diffusion.samplers import SAMPLERS, LadderSampler
from restore_diff.diffusion.schedule import Level
from restore_diff.evaluation.evaluator import Scorer, quantize
from restore_diff.metrics.perceptual import LPIPS
from restore_diff.models.unet import Network
from restore_diff.randomness import mix
from restore_diff.restoration.restorer import Restorer
from restore_diff.settings import settings
from restore_diff.tensors import Images

PATCH_PX = 64
PIXEL_STRIDE = 3
"""Every third row and column counts in the calibration, to bound memory."""
NUM_BINS = 10


class Setting(NamedTuple):
    sampler: dict[str, Any]
    """Changes to the checkpoint's sampler."""
    averages: tuple[int, ...] = (1,)
    mirror: bool = False


SETTINGS: dict[str, Setting] = {
    "ddim, 1 step": Setting({"num_steps": 1}, (1, 4, 8)),
    "mirrored, ddim, 1 step": Setting({"num_steps": 1}, (2, 4, 8), mirror=True),
    "re-noised to 0.05": Setting({"name": "renoised", "num_steps": 1, "options": {"noise": 0.05}}),
    "re-noised to 0.1": Setting({"name": "renoised", "num_steps": 1, "options": {"noise": 0.1}}, (1, 4)),
    "re-noised to 0.2": Setting({"name": "renoised", "num_steps": 1, "options": {"noise": 0.2}}),
    "ddim, 2 steps": Setting({"num_steps": 2}, (1, 4, 8)),
    "ddim, 2 steps, eta 1": Setting({"num_steps": 2, "eta": 1.0}, (1, 4, 8)),
    "ddim, 4 steps": Setting({"num_steps": 4}, (1, 4)),
    "ddim, 4 steps, eta 1": Setting({"num_steps": 4, "eta": 1.0}, (1, 4)),
    "ddim, 8 steps": Setting({"num_steps": 8}, (1, 4)),
    "ddim, 8 steps, eta 1": Setting({"num_steps": 8, "eta": 1.0}, (1, 4)),
    "ddim, 10 steps": Setting({"num_steps": 10}),
    "mirrored, ddim, 2 steps": Setting({"num_steps": 2}, (4,), mirror=True),
    "mirrored, ddim, 4 steps": Setting({"num_steps": 4}, (4,), mirror=True),
    "ddim, 4 steps, leading": Setting({"num_steps": 4, "spacing": "leading"}),
    "ddim, 4 steps, linspace": Setting({"num_steps": 4, "spacing": "linspace"}),
    "ddim, 4 steps, log-SNR": Setting({"num_steps": 4, "spacing": "logsnr"}),
    "ddim, 4 steps, karras": Setting({"num_steps": 4, "spacing": "karras"}),
    "ddim, 10 steps, stopped at t = 400": Setting({"num_steps": 10, "stop_t": 400}),
    "ddim, 4 steps from the degraded image at t = 400": Setting({"num_steps": 4, "start_t": 400}),
    "dpm++2m, 4 steps": Setting({"name": "dpm++2m", "num_steps": 4}),
    "dpm++2m, 10 steps": Setting({"name": "dpm++2m", "num_steps": 10}),
    "unipc, 4 steps": Setting({"name": "unipc", "num_steps": 4}),
    "heun, 2 steps (3 calls)": Setting({"name": "heun", "num_steps": 2}),
}


@settings
class RenoisedSettings:
    noise: float = Field(default=0.1, gt=0, lt=1, description="noise level of the second estimate, in [-1, 1]")


class Renoised(LadderSampler):
    """After each estimate fresh noise; after the last one noise of the given level, and one more estimate."""

    Settings = RenoisedSettings

    def __init__(self, schedule, prediction, config, options: RenoisedSettings):
        super().__init__(schedule, prediction, config)
        t = int(((1 - schedule.alpha_bar).sqrt() < options.noise).sum())
        alpha_bar = schedule.alpha_bar[t].item()
        self.levels.insert(-1, Level(t, alpha_bar**0.5, (1 - alpha_bar) ** 0.5))

    def solver(self, denoise, noise):
        def move(step, level, following, x_t, found):
            return following.signal * found.clean + following.noise * noise(step + 1).to(x_t)

        return move


SAMPLERS["renoised"] = Renoised


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = arguments(argv)
    _, config, weights = trained.load_experiment(args.ckpt)
    config = overridden(config, [f"data.root={args.root}", *args.set])
    model = trained.trained_network(config, weights, args.device)
    lpips = build.lpips(config, args.lpips_weights)
    perception = Perception(lpips) if isinstance(lpips, LPIPS) else None
    scorer = build.scorer(("y_matlab",), lpips, ("psnr", "ssim", "lpips"))
    pairs = list(chosen_pairs(build.images(config, build.test_set(config, args.data)), args))
    result: dict[str, Any] = {"data": args.data, "num_images": len(pairs), "settings": {}, "maps": {}}
    result["settings"]["degraded"] = scores_of([(p.degraded, p) for p in pairs], scorer, perception)
    for name, setting in SETTINGS.items():
        if not any(word in name for word in args.only):
            continue
        sampled, calls = samples(config, model, setting, pairs, args)
        for num in setting.averages:
            line = f"mean of {num}, {name}" if num > 1 else name
            found = [(images[:num].mean(0), pair) for images, pair in zip(sampled, pairs, strict=True)]
            result["settings"][line] = {"calls": calls * num, **scores_of(found, scorer, perception)}
            print(f"{line:40}", result["settings"][line], flush=True)
        if (num := setting.averages[-1]) >= 4:
            line = f"mean of {num}, {name}"
            result["maps"][line] = calibration(sampled, pairs)
            print(f"{line:40}", {k: v for k, v in result["maps"][line].items() if k != "bins"}, flush=True)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.markdown:
        print(markdown(result["settings"]), markdown(result["maps"]), sep="\n\n")
    return result


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--data", required=True, help="as data.test; a folder of photographs needs data.weather")
    parser.add_argument("--root", default="data")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="e.g. data.weather=rain")
    parser.add_argument("--every", type=int, default=1, help="every n-th pair of the set")
    parser.add_argument("--limit", type=int, help="of these, the first")
    parser.add_argument("--crop", type=int, help="only the middle, of this side in px")
    parser.add_argument("--only", nargs="+", default=[""], help="settings whose name contains one of these")
    parser.add_argument("--lpips-weights", type=Path)
    parser.add_argument("--device", type=trained.select_device, default="auto")
    parser.add_argument("--dtype", default="float32", help="as for restore.py")
    parser.add_argument("--markdown", action="store_true", help="print tables at the end")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


class Degraded(NamedTuple):
    name: str
    clean: Tensor
    degraded: Tensor
    weather: str | None
    """Label to restore with; None: detect."""


def chosen_pairs(images: PairedImageDataset, args: argparse.Namespace) -> Iterator[Degraded]:
    for index in list(range(0, len(images), args.every))[: args.limit]:
        pair = images[index]
        assert pair.degraded is not None
        weather = None
        if images.pairs.pairs[index].degraded is None and images.render is not None:
            seeds, named = [mix(images.seed, "weather", pair.name)], [images.pairs.pairs[index].weather]
            (weather,) = images.render.kinds(seeds, named)  # pyright: ignore[reportFunctionMemberAccess]
        side = args.crop or max(pair.clean.shape)
        top, left = (max(0, (length - side) // 2) for length in pair.clean.shape[-2:])
        part = slice(None), slice(top, top + side), slice(left, left + side)
        yield Degraded(pair.name, pair.clean[part], pair.degraded[part], weather)


def samples(
    config: ExperimentConfig, model: Network, setting: Setting, pairs: list[Degraded], args: argparse.Namespace
) -> tuple[list[Tensor], int]:
    """The samples of each image, (number, 3, height, width), and the network calls of one sample."""
    given = {"num_samples": 1, "mirror": False, **setting.sampler}
    config = build.with_overrides(config, **{f"sampler__{name}": value for name, value in given.items()})
    dtype = build.select_precision(args.dtype, args.device)
    restorers: dict[str | None, Restorer] = {}
    calls: list[int] = []
    hook = model.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    found = []
    for pair in pairs:
        if pair.weather not in restorers:
            restorers[pair.weather] = build.restorer(config, model, args.device, dtype, pair.weather)
        restore, images = restorers[pair.weather].restore, []
        for seed in range(setting.averages[-1]):
            flip = [-1] if setting.mirror and seed % 2 else []
            images.append(restore(pair.degraded[None].flip(flip), [pair.name], seed).flip(flip)[0].cpu())
        found.append(torch.stack(images))
    hook.remove()
    return found, round(len(calls) / sum(map(len, found)))


def scores_of(found: list[tuple[Tensor, Degraded]], scorer: Scorer, perception: "Perception | None") -> dict[str, Any]:
    rows = [scorer(quantize(image[None])[0], quantize(pair.clean[None])[0]) for image, pair in found]
    means = {name: round(fmean(row[name] for row in rows), 4) for name in rows[0]}
    if perception is None:
        return means
    from torchmetrics.image.fid import FrechetInceptionDistance  # slow to import

    textures = [perception.texture(image[None], pair.clean[None]) for image, pair in found]
    frechet = FrechetInceptionDistance(feature=ThirdLayer(perception))
    for image, pair in found:
        frechet.update(patches(image), real=False)
        frechet.update(patches(pair.clean), real=True)
    return {**means, "texture": round(fmean(textures), 4), "FAD": round(float(frechet.compute()), 3)}


def patches(image: Tensor) -> Images:
    """Squares of PATCH_PX that do not overlap, of one image (3, H, W)."""
    return image.unfold(1, PATCH_PX, PATCH_PX).unfold(2, PATCH_PX, PATCH_PX).flatten(1, 2).transpose(0, 1)


class Perception:
    """Distances from the features of LPIPS's AlexNet."""

    def __init__(self, lpips: LPIPS):
        distance: Any = lpips.distance
        self.net, self.scale = distance.net, distance.scaling_layer

    @torch.no_grad()
    def features(self, images: Images) -> list[Tensor]:
        """Outputs of the five layers for images (B, 3, H, W) in [0, 1]."""
        return list(self.net(self.scale(images * 2 - 1)))

    def texture(self, a: Images, b: Images) -> float:
        similarities = []
        for x, y in zip(self.features(a), self.features(b), strict=True):
            (x_var, x_mean), (y_var, y_mean) = (torch.var_mean(f, dim=(2, 3), correction=0) for f in (x, y))
            covariance = (x * y).mean(dim=(2, 3)) - x_mean * y_mean
            of_means = (2 * x_mean * y_mean + 1e-6) / (x_mean.square() + y_mean.square() + 1e-6)
            similarities += [of_means, (2 * covariance + 1e-6) / (x_var + y_var + 1e-6)]
        return 1 - fmean(float(similarity.mean()) for similarity in similarities)


class ThirdLayer(nn.Module):
    """Means of the third layer's features: (B, 3, H, W) -> (B, 384)."""

    num_features = 384

    def __init__(self, perception: Perception):
        super().__init__()
        self.perception = perception

    def forward(self, images: Images) -> Tensor:
        return self.perception.features(images)[2].mean(dim=(2, 3))


def calibration(sampled: list[Tensor], pairs: list[Degraded]) -> dict[str, Any]:
    """Figures of the deviation over samples against the error of their mean; `bins`: tenths of the pixels."""
    maps = [maps_of(images, pair) for images, pair in zip(sampled, pairs, strict=True)]
    deviation, error, change = (torch.cat(parts) for parts in zip(*maps, strict=True))
    parts, ranks = deviation.argsort().tensor_split(NUM_BINS), (one.argsort().argsort() for one in (deviation, error))
    return {
        "ratio": round(rms(error) / rms(deviation), 2),
        "within": round(float((error <= 2 * deviation).float().mean()), 3),
        "rank": round(float(torch.corrcoef(torch.stack(list(ranks)).double())[0, 1]), 3),
        "AUSE": ause(deviation, error),
        "AUSE of change": ause(change, error),
        "bins": [{"deviation": rms(deviation[part]), "error": rms(error[part])} for part in parts],
    }


def maps_of(images: Tensor, pair: Degraded) -> tuple[Tensor, Tensor, Tensor]:
    """Deviation over samples, absolute error of their mean, and its absolute change, of some pixels, flat."""
    mean = images.mean(0)
    maps = images.std(0), (mean - pair.clean).abs(), (mean - pair.degraded).abs()
    deviation, error, change = (one[..., ::PIXEL_STRIDE, ::PIXEL_STRIDE].flatten() for one in maps)
    return deviation, error, change


def rms(values: Tensor) -> float:
    return round(float(values.square().mean().sqrt()), 5)


def ause(scores: Tensor, error: Tensor) -> float:
    """Area between the sparsification curves of `scores` and of the error, over that of no order at all."""
    by_score, by_error = sparsification(scores, error), sparsification(error, error)
    chance = torch.ones_like(by_error)
    return round(float((by_score - by_error).mean() / (chance - by_error).mean()), 3)


def sparsification(scores: Tensor, error: Tensor) -> Tensor:
    """RMSE of the pixels that remain when those of the highest scores are removed, over that of all; 20 shares."""
    squares = error[scores.argsort()].square().double().cumsum(0)
    counts = torch.arange(1, len(error) + 1)
    places = (torch.linspace(0.05, 1, 20) * len(error)).long() - 1
    return (squares[places] / counts[places] / (squares[-1] / len(error))).sqrt().flip(0)


def markdown(lines: dict[str, dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for line in lines.values() for name in line if name != "bins"))
    head = ["| | " + " | ".join(columns) + " |", "|---" + "|---:" * len(columns) + "|"]
    cells = [[name, *(str(line.get(column, "")) for column in columns)] for name, line in lines.items()]
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in cells)])


if __name__ == "__main__":
    main()
