"""Weather detection: confusion, calibration, and the cost of each mistake in dB.

python benchmarks/recognition.py --clean PHOTOGRAPHS --real rain=FOLDER haze=FOLDER snow=FOLDER raindrop=FOLDER \
    --out benchmarks/results/recognition.json
python benchmarks/recognition.py --again benchmarks/results/recognition.json     # the tables anew, without a network

Each clean photograph, which the weights must not have been trained on, counts as `none` and with each weather rendered
(configs/all_weather.yaml, and overrides by --set). Logits are those of the restorer, from whole photographs. The cost
of a label is measured on the middle of the first --num-costs photographs, `--quality fast`: PSNR (rgb) by label used.
A label `none` between 0 and 1 is interpolated from 0 (unknown), 1/2 and 1. Calibration treats each label as a yes-no
question; the temperature is fitted to every third photograph and scored on the others.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from restore_diff import build, trained
from restore_diff.config import load_config
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.names import list_images
from restore_diff.evaluation.evaluator import quantize
from restore_diff.labels import decided, hints
from restore_diff.metrics.protocols import PROTOCOLS
from restore_diff.randomness import mix
from restore_diff.restoration.restorer import Restorer
from restore_diff.tensors import Images

NUM_BINS = 10
SURES = (0.6, 0.7, 0.8, 0.9)
POSSIBLES = (0.18, 0.2, 0.3, 0.4)
UNKNOWN, HALF_NONE = "unknown", "none/2"

Row = dict[str, Any]
"""photograph, weather, rendered, logits; where costs are measured, psnr: {label: dB}."""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = arguments(argv)
    if args.again:
        result = json.loads(args.again.read_text())
    else:
        result = {"ckpt": str(args.ckpt), "images": []}
        result["labels"] = trained.load_experiment(args.ckpt)[1].model.labels
        for row in collect(args):
            result["images"].append(row)
            if args.out:
                args.out.write_text(json.dumps(result) + "\n")
    report = analyse(result["images"], result["labels"])
    print(*report, sep="\n")
    if args.out:
        args.out.with_suffix(".md").write_text("\n".join(report) + "\n")
    return result


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, default=trained.SHIPPED_NAME)
    parser.add_argument("--clean", type=Path, metavar="FOLDER")
    parser.add_argument("--real", nargs="*", default=[], metavar="WEATHER=FOLDER")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the rendered weather")
    parser.add_argument("--limit", type=int, help="first photographs of each folder")
    parser.add_argument("--num-costs", type=int, default=24, help="photographs that are also restored")
    parser.add_argument("--side", type=int, default=256, help="side of the part that is restored, in px")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="as for restore.py")
    parser.add_argument("--again", type=Path, metavar="FILE.json")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


# Collecting.


def collect(args: argparse.Namespace) -> Iterator[Row]:
    restorer, _ = trained.load_restorer(args.ckpt, args.device, args.dtype, "fast")
    labels = trained.load_experiment(args.ckpt)[1].model.labels
    real = [text.split("=", 1) for text in args.real]
    files = [(weather, path) for weather, folder in real for _, path in photographs(Path(folder), args.limit)]
    for number, (weather, path) in enumerate(files):
        logits = logits_of(restorer, read_rgb_uint8(path)[None].float() / 255)
        yield {"photograph": f"real {number:03d}", "weather": weather, "rendered": False, "logits": logits}
    renderers = {}
    for kind in labels[1:]:
        renderers[kind] = build.renderer(load_config(["all_weather.yaml"], [*args.set, f"data.weather={kind}"]).data)
    for number, (name, path) in enumerate(photographs(args.clean, args.limit)):
        clean = read_rgb_uint8(path)[None].float() / 255
        seed = mix(0, "weather", name)
        images = [clean, *(quantize(render(clean, [seed])).float() / 255 for render in renderers.values())]
        for weather, image in zip(labels, images, strict=True):
            row = {"photograph": f"clean {number:03d}", "weather": weather, "rendered": True}
            row["logits"] = logits_of(restorer, image)
            if number < args.num_costs:
                row["psnr"] = costs(restorer, middle(image, args.side), middle(clean, args.side), labels)
            yield row
        print(f"{number + 1} clean photographs", file=sys.stderr, flush=True)


def photographs(folder: Path | None, limit: int | None) -> list[tuple[str, Path]]:
    return sorted(list_images(folder).items())[:limit] if folder else []


def logits_of(restorer: Restorer, image: Images) -> list[float]:
    assert restorer.recognition is not None
    with torch.no_grad():
        return [round(logit, 4) for logit in restorer.recognition.logits(image)[0].tolist()]


def costs(restorer: Restorer, degraded: Images, clean: Images, labels: Sequence[str]) -> dict[str, float]:
    """PSNR (rgb) in dB by label used, and of the degraded image as `input`."""
    assert restorer.recognition is not None
    hint = dict(zip(labels, hints(labels, labels).split(1), strict=True))
    hint |= {HALF_NONE: hint["none"] / 2, UNKNOWN: torch.zeros_like(hint["none"])}
    found = {"input": float(PROTOCOLS["rgb"].psnr(degraded, clean)[0])}
    for label, row in hint.items():
        labelled = copy(restorer)
        labelled.predictor, labelled.recognition = restorer.recognition.with_label(row.to(restorer.device)), None
        found[label] = float(PROTOCOLS["rgb"].psnr(labelled.restore(degraded, ["photograph"]), clean)[0])
    return {label: round(min(value, 100.0), 3) for label, value in found.items()}


def middle(image: Images, side: int) -> Images:
    top, left = (max(0, (length - side) // 2) for length in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


# Tables.


def analyse(rows: list[Row], labels: Sequence[str]) -> list[str]:
    """Lines of Markdown."""
    rendered, real = ([row for row in rows if row["rendered"] == kind] for kind in (True, False))
    lines = []
    for title, part in (("Clean photographs and rendered weather", rendered), ("Real photographs", real)):
        if part:
            lines += [f"**{title}**", "", *confusion(part, labels), "", *calibration(part, labels), ""]
    if costed := [row for row in rows if "psnr" in row]:
        lines += ["**Cost of a label in dB, against the right one**", "", *cost_table(costed, labels), ""]
        lines += ["**Thresholds**", "", *threshold_table(costed, real, labels), ""]
    return lines


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *cells)]


def logits_and_truth(rows: list[Row], labels: Sequence[str]) -> tuple[Tensor, Tensor]:
    return torch.tensor([row["logits"] for row in rows]), hints([row["weather"] for row in rows], labels)


def decision(hint: Tensor, labels: Sequence[str]) -> str:
    """The label of a row of `decided`; `none` also where it is set in part."""
    return labels[int(hint.argmax())] if hint.any() else UNKNOWN


def confusion(rows: list[Row], labels: Sequence[str]) -> list[str]:
    found = decided(logits_and_truth(rows, labels)[0])
    counts = Counter((row["weather"], decision(hint, labels)) for row, hint in zip(rows, found, strict=True))
    columns = [*labels, UNKNOWN]
    shown = [label for label in labels if any(row["weather"] == label for row in rows)]
    return table(
        ["shown, label used", *columns], ([label, *(counts[label, used] for used in columns)] for label in shown)
    )


def calibration(rows: list[Row], labels: Sequence[str]) -> list[str]:
    """Reliability, and cross-entropy and calibration error at temperature 1 and at the fitted one."""
    names = sorted({row["photograph"] for row in rows})
    held_out = set(names[::3])
    fit, rest = ([row for row in rows if (row["photograph"] in held_out) == side] for side in (True, False))
    logits, truth = logits_and_truth(fit, labels)
    found: Any = minimize_scalar(
        lambda t: float(F.binary_cross_entropy_with_logits(logits / t, truth)), bounds=(0.2, 10)
    )
    temperature = float(found.x)
    logits, truth = logits_and_truth(rest, labels)
    scores = []
    for at in (1.0, temperature):
        entropy = float(F.binary_cross_entropy_with_logits(logits / at, truth))
        scores.append([f"{at:.2f}", f"{entropy:.3f}", f"{ece((logits / at).sigmoid(), truth):.3f}"])
    lines = table(["temperature", "cross-entropy", "ECE"], scores)
    bins = reliability(logits.sigmoid(), truth)
    return [*lines, "", *table(["confidence", "number", "mean confidence", "share true"], bins)]


def reliability(confidence: Tensor, truth: Tensor) -> list[tuple[str, int, float, float]]:
    """Bins of equal width that are not empty: range, number, mean confidence, share that is true."""
    which = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    rows = []
    for place in range(NUM_BINS):
        inside = which == place
        if inside.any():
            edges = f"{place / NUM_BINS:.1f} to {(place + 1) / NUM_BINS:.1f}"
            rows.append((edges, int(inside.sum()), float(confidence[inside].mean()), float(truth[inside].mean())))
    return rows


def ece(confidence: Tensor, truth: Tensor) -> float:
    """Expected calibration error (Guo et al., 2017) of all yes-no questions, in bins of equal width."""
    bins = reliability(confidence, truth)
    return sum(number * abs(mean - share) for _, number, mean, share in bins) / confidence.numel()


def cost_table(rows: list[Row], labels: Sequence[str]) -> list[str]:
    used = ["input", *labels, HALF_NONE, UNKNOWN]

    def cells(shown: str) -> list[Any]:
        of_kind = [row["psnr"] for row in rows if row["weather"] == shown]
        right = fmean(psnr[shown] for psnr in of_kind)
        return [shown, right, *(fmean(psnr[label] for psnr in of_kind) - right for label in used)]

    return table(["shown, label used", "PSNR with the right one", *used], map(cells, labels))


def threshold_table(rows: list[Row], real: list[Row], labels: Sequence[str]) -> list[str]:
    """What other thresholds would give: PSNR of clean photographs (mean, least) and by weather; decisions on real ones.

    `kept`: share of real photographs whose label is none, at least in part; `wrong`: another kind than shown.
    """
    weathers = [label for label in labels[1:] if any(row["weather"] == label for row in real)]
    head = ["sure", "possible", "clean", "least", *labels[1:], "mean of these"]
    head += ["real: right", "wrong", "kept", *(f"{kind} kept" for kind in weathers)]
    logits, real_logits = (torch.tensor([row["logits"] for row in part]) for part in (rows, real))
    lines = []
    for sure, possible in product(SURES, POSSIBLES):
        scores: dict[str, list[float]] = {label: [] for label in labels}
        for row, hint in zip(rows, decided(logits, sure, possible), strict=True):
            scores[row["weather"]].append(psnr_at(row["psnr"], hint, labels))
        means = [fmean(scores[label]) for label in labels[1:]]
        used = [decision(hint, labels) for hint in decided(real_logits, sure, possible)] if real else []
        pairs = [(row["weather"], label) for row, label in zip(real, used, strict=True)]
        kept = Counter(shown for shown, label in pairs if label == labels[0])
        right = sum(shown == label for shown, label in pairs)
        wrong = sum(label not in (shown, labels[0], UNKNOWN) for shown, label in pairs)
        of_clean = scores[labels[0]]
        cells = [str(sure), str(possible), fmean(of_clean), min(of_clean), *means, fmean(means)]
        lines.append([*cells, right, wrong, kept.total(), *(kept[kind] for kind in weathers)])
    return table(head, lines)


def psnr_at(psnr: dict[str, float], hint: Tensor, labels: Sequence[str]) -> float:
    """PSNR with this hint; linear in a share of none below and above one half."""
    label = decision(hint, labels)
    if label != labels[0]:
        return psnr[label]
    share = float(hint[0])
    low, high, place = (UNKNOWN, HALF_NONE, 2 * share) if share < 0.5 else (HALF_NONE, labels[0], 2 * share - 1)
    return psnr[low] + place * (psnr[high] - psnr[low])


if __name__ == "__main__":
    main()
