"""Apply deliberate mistakes to copies of the package, one at a time: the tests named for each must fail.

python tests/mutations.py           all of them, one process for each core; about 10 minutes on 2 cores
python tests/mutations.py NAME      one, with the output of its tests
"""

import os
import queue
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    *("docs", "restore_diff", "tests", "configs", "datasets"),
    *("pyproject.toml", "setup.cfg", "train.py", "test.py", "restore.py"),
)
TIMEOUT_S = 300

MISTAKES: dict[tuple[str, str], dict[str, tuple[str, str]]] = {
    ("diffusion/schedule.py", "diffusion/test_schedule"): {
        "linear schedule at half the rate": (
            "scale = 1000 / config.num_timesteps",
            "scale = 500 / config.num_timesteps",
        ),
        "wrong SNR": (
            "self._snr = self.alpha_bar / (1 - self.alpha_bar)",
            "self._snr = self.alpha_bar**2 / (1 - self.alpha_bar)",
        ),
    },
    ("diffusion/prediction.py", "diffusion/test_prediction"): {
        "velocity with the wrong sign": ("signal * x_t - noise * output,", "signal * x_t + noise * output,"),
        "epsilon of another signal": ("return (x_t - signal * clean) / noise", "return (x_t - clean) / noise"),
    },
    ("diffusion/prediction.py", "diffusion/test_samplers"): {
        "state in the precision of the network": ("return output.to(state.dtype)", "return output"),
    },
    ("diffusion/prediction.py", "diffusion/test_loss"): {
        "error of the clean image as that of epsilon": (
            "return signal / noise * (read.clean(output, x_t, signal, noise, degraded) - clean)",
            "return read.clean(output, x_t, signal, noise, degraded) - clean",
        ),
    },
    ("diffusion/guidance.py", "diffusion/test_guidance"): {
        "scale of the label counted from no label": (
            "torch.lerp(without.clean, estimate.clean, 1 + self.options.scale)",
            "torch.lerp(without.clean, estimate.clean, self.options.scale)",
        ),
        "gradient scaled by the noise once": ("level.noise**2 / level.signal", "level.noise / level.signal"),
        "likelihood without the variance of the estimate": (
            "self.noise**2 + (self.operator.gain * level.noise) ** 2",
            "self.noise**2 + 1e-4",
        ),
        "noise of the measured image in [-1, 1]": (
            "self.noise = 2 * options.noise\n\n",
            "self.noise = options.noise\n\n",
        ),
    },
    ("diffusion/operators.py", "diffusion/test_guidance"): {
        "unknown pixels measured": ("torch.where(degraded.isnan(),", "torch.where(degraded.isinf(),"),
        "blur by twice the variance": ("-2 * (math.pi * sigma) ** 2", "-4 * (math.pi * sigma) ** 2"),
    },
    ("diffusion/loss.py", "diffusion/test_loss"): {
        "weight of the clean image": (
            "return snr.clamp(self.config.snr_min, self.config.snr_max) / snr",
            "return snr.clamp(self.config.snr_min, self.config.snr_max)",
        ),
        "relative floor of absolute errors": ("_mean((degraded - clean).square())", "_mean((degraded - clean).abs())"),
        "timesteps equal at every step": (
            'stream = generator(seed, "timesteps", step)',
            'stream = generator(seed, "timesteps")',
        ),
        "antithetic pairs off by one": (
            "torch.stack([t, num_timesteps - 1 - t], dim=1)",
            "torch.stack([t, num_timesteps - t], dim=1)",
        ),
        "late timesteps uniform": (
            "_stratified(total, 2 * num_timesteps, stream)",
            "_stratified(total, num_timesteps, stream)",
        ),
        "one noise for all samples": (
            'generator(seed, "noise", position, device=like.device)',
            'generator(seed, "noise", device=like.device)',
        ),
    },
    ("diffusion/schedule.py", "diffusion/test_samplers"): {
        "steps off by one": (
            "[round(num_timesteps * left / num_steps) - 1 for left in",
            "[round(num_timesteps * left / num_steps) for left in",
        ),
        "noise left at the end": ("Level(t=-1, signal=1.0, noise=0.0)", "Level(t=-1, signal=0.99995, noise=0.01)"),
        "early stop too late": ("if t <= config.stop_t", "if t < config.stop_t - 50"),
        "equal steps on an uneven ladder": ("min(nearest[place], nearest[place - 1] - 1)", "nearest[place]"),
    },
    ("diffusion/samplers.py", "diffusion/test_samplers"): {
        "epsilon not derived from the clipped image": (
            "epsilon = implied_epsilon(clean, x_t, *levels)",
            "epsilon = implied_epsilon(3 * clean, x_t, *levels)",
        ),
        "fresh noise on top": ("math.sqrt(max(following.noise**2 - fresh_variance, 0.0))", "following.noise"),
        "start without the signal level": (
            "first.signal * degraded.to(epsilon.dtype) + first.noise * epsilon",
            "degraded.to(epsilon.dtype) + first.noise * epsilon",
        ),
        "Heun without the first slope": ("slope * (found.epsilon + later) / 2", "slope * later"),
        "multistep of even steps": ("(2 * _ratio(before, level, following))", "2"),
        "UniPC without corrector": ("x_t = _corrected(left[0], past, level, found.clean)", "pass"),
    },
    ("metrics/protocols.py", "metrics/test_protocols"): {
        "luma truncated": ("return (values + 0.5).floor()", "return values.floor()"),
        "PSNR of the batch": ("square_().mean(dim=(1, 2, 3))", "square_().mean()"),
        "SSIM window along one axis": ("for axis in (-2, -1):", "for axis in (-1, -1):"),
        "PSNR in float32": (
            'precision = torch.float32 if images.device.type == "mps" else torch.float64',
            "precision = torch.float32",
        ),
        "threads left changed": ("torch.set_num_threads(num_threads)", "pass"),
        "channels as BGR": ("red, green, blue = levels.unbind(dim=1)", "blue, green, red = levels.unbind(dim=1)"),
        "luma not rounded": ('channel="y", round_y=True),', 'channel="y"),'),
    },
    ("metrics/perceptual.py", "metrics/test_perceptual"): {
        "hash not compared": (
            "if promised and not digest.startswith(promised[1]):",
            "if promised and not promised[1]:",
        ),
    },
    ("metrics/distribution.py", "metrics/test_distribution"): {
        "resized with antialiasing": ("antialias=False", "antialias=True"),
        "random subsets": ("torch.manual_seed(0)", "pass"),
        "range of 255": ("image[None] / 255", "image[None].float()"),
    },
    ("evaluation/report.py", "evaluation/test_report"): {
        "best seed instead of the mean": (
            "seeds.mean().item() for seeds in finite",
            "seeds.max().item() for seeds in finite",
        ),
    },
    ("evaluation/page.py", "evaluation/test_page"): {
        "file names as HTML": ("autoescape=True", "autoescape=False"),
        "each example without its first image": ("in shown.images.items()}", "in [*shown.images.items()][1:]}"),
    },
    ("evaluation/evaluator.py", "evaluation/test_evaluator"): {
        "clean scored against itself": ("self.scorer(degraded, clean).items()", "self.scorer(clean, clean).items()"),
    },
    ("distributed.py", "evaluation/test_sharing"): {
        "images scored twice": ("range(self.rank, num_images, self.num)", "range(0, num_images, self.num)"),
    },
    ("restoration/tiling.py", "restoration/test_tiling"): {
        "edge repeated": (
            "torch.minimum(phase, period - phase) if old > 1",
            "torch.minimum(phase, period - 1 - phase) if old > 1",
        ),
        "too few tiles": ("(length - tile) / (tile - overlap)) if", "(length - tile) / tile) if"),
        "weights of the mean": ("w / total[s : s + tile]", "w / total.mean()"),
        "tiles of another image": (
            '"(b rows columns) c h w -> columns b rows c h w"',
            '"(rows columns b) c h w -> columns b rows c h w"',
        ),
        "timesteps of another image": ("t.repeat_interleave(len(tiles) // len(t))", "t.repeat(len(tiles) // len(t))"),
        "shifted grid without shift": (
            "offset = math.floor(shift * (slack + 1)) if num_tiles > 1 else 0",
            "offset = 0",
        ),
        "tiles fade at the image border": (
            "windows[left, tile - shared :] *= rising.flip(0)",
            "windows[left, tile - shared :] *= rising",
        ),
    },
    ("restoration/restorer.py", "restoration/test_memory_and_samples"): {
        "mirrored sample not mirrored back": (
            "self._sample_finite(degraded.flip(-1), of_sample).flip(-1)",
            "self._sample_finite(degraded.flip(-1), of_sample)",
        ),
        "equal noise for all samples": ("noise._replace(seed=noise.seed + further)", "noise"),
        "every band with the weights of the first": ("rows=(start, start + len(weight))", "rows=(0, len(weight))"),
    },
    ("training/optimisation.py", "training/test_ema"): {
        "decay inverted": ("step = 1 - self.decay_after(num_updates)", "step = self.decay_after(num_updates)"),
        "decay without warm-up": (
            "return min(self.decay, (1 + num_updates) / (10 + num_updates))",
            "return self.decay",
        ),
    },
    ("training/optimisation.py", "training/test_resume"): {
        "validation without averaged weights": (
            "        _copy_into(model.state_dict(), self.weights)\n        try:",
            "        try:",
        ),
        "update with NaN": ("        self.optimizer.found_inf = skip  # type: ignore[attr-defined]\n", ""),
        "dropout not seeded": (
            '        torch.manual_seed(mix(self._seed, "dropout", num_steps_done, self.processes.rank))\n',
            "",
        ),
    },
    ("training/optimisation.py", "training/test_optimisation"): {
        "mean over the micro batch": ("batch.weathers).sum() / total", "batch.weathers).mean()"),
        "warm-up from zero": (
            "return config.learning_rate * (num_steps_done + 1) / config.warmup_steps",
            "return config.learning_rate * num_steps_done / config.warmup_steps",
        ),
    },
    ("training/optimisation.py", "training/test_golden_losses"): {
        "noise of another seed": (
            "draw_noise(clean, batch.positions, self._seed)",
            "draw_noise(clean, batch.positions, self._seed + 1)",
        ),
    },
    ("training/trainer.py", "training/test_resume"): {
        "running loss not resumed": ("    optimisation.meter.load(checkpoint.progress.meter_totals)\n", ""),
        "optimizer not resumed": (
            "load_optimizer_tensors(optimisation.model, optimisation.optimizer, checkpoint.optimizer)",
            "pass",
        ),
    },
    ("training/optimisation.py", "training/test_muon"): {
        "matrices share a norm": ("wide.norm(dim=(1, 2), keepdim=True)", "wide.norm()"),
    },
    ("checkpoint.py", "training/test_checkpoint"): {
        "hash not verified": ("if sha256(data) != record.sha256:", "if False:"),
        "written in place": ('partial = folder / f"{PARTIAL}{final.name}"', "partial = final"),
    },
    ("checkpoint.py", "training/test_resume"): {
        "best checkpoint removed": ("if int(path.name) != best_step:", "if True:"),
    },
    ("training/run.py", "training/test_run"): {
        "lines after the resumed step kept": ("if _step_of(line) <= step", "if True"),
    },
    ("data/loading.py", "data/test_loading"): {
        "parts in one pass": (
            "block * self._counts[part] + int(earlier[offset])",
            "block * len(earlier) + int(earlier[offset])",
        ),
        "one order of parts for all blocks": ('generator(seed, "mixture", block)', 'generator(seed, "mixture")'),
        "passes in one order": ('generator(seed, "order", *address)', 'generator(seed, "order")'),
        "crops miss the last row": (
            "_draw(height - size_px + 1, generator)",
            "_draw(height - size_px, generator) if height > size_px else 0",
        ),
        "augmentation by place in the batch": (
            'draw = generator(self.seed, "augment", position)',
            'draw = generator(self.seed, "augment", position - positions[0])',
        ),
        "samples of another process": (
            "+ micro) * self.world + self.rank) * self.size",
            "+ self.rank) * self.world + micro) * self.size",
        ),
        "resume at the wrong batch": (
            "sampler=range(step * self._micro_batches.num_micro_batches, ENDLESS)",
            "sampler=range(step, ENDLESS)",
        ),
    },
    ("data/pairs.py", "data/test_pairs"): {
        "held-out photograph trained on": ("if pair.clean not in gone", "if pair not in validation"),
    },
    ("data/loading.py", "data/test_pairs"): {
        "weather by place, not name": ('mix(self.seed, "weather", pair.name)', 'mix(self.seed, "weather", index)'),
    },
    ("data/pairs.py", "data/test_cards"): {
        "weight of joined parts not divided": ("part.weight * weight / sum(inner)", "part.weight * weight"),
    },
    ("data/images.py", "data/test_images"): {
        "levels truncated": ("* levels + 0.5).floor()", "* levels).floor()"),
    },
}
"""(file in restore_diff/, file in tests/) -> name -> (text that occurs once in the file, replacement)."""


def main(argv: list[str]) -> int:
    chosen = [
        (name, file, f"tests/{tests}.py", *texts)
        for (file, tests), mistakes in MISTAKES.items()
        for name, texts in mistakes.items()
        if name in argv or not argv
    ]
    if not chosen:
        return _fail(f"no mistake has the name {argv[0]!r}")
    for name, file, _, old, _ in chosen:
        if (count := (ROOT / "restore_diff" / file).read_text().count(old)) != 1:
            return _fail(f"{name}: restore_diff/{file} must contain {old!r} once, found {count} times")
    num_workers = min(os.cpu_count() or 1, len(chosen))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(num_workers) as pool:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for k in range(num_workers):
            trees.put(_copy(Path(folder, str(k))))
        test_files = sorted({tests for _, _, tests, _, _ in chosen})
        unchanged = pool.map(lambda tests: _run(trees, tests), test_files)
        broken = [tests for tests, (code, _) in zip(test_files, unchanged, strict=True) if code]
        if broken:
            return _fail(f"fails without a mistake: {', '.join(broken)}")
        survivors = []
        results = pool.map(lambda row: _run(trees, row[2], row[1], row[3], row[4]), chosen)
        for (name, file, tests, _, _), (code, output) in zip(chosen, results, strict=True):
            print(f"{'caught' if code == 1 else 'MISSED'}  {file}: {name} ({tests})", flush=True)
            if argv:
                print(output)
            if code != 1:
                survivors.append(name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} caught")
    return 1 if survivors else 0


def _copy(tree: Path) -> Path:
    tree.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree)
    return tree


def _run(trees: "queue.SimpleQueue[Path]", tests: str, file: str = "", old: str = "", new: str = "") -> tuple[int, str]:
    """Run a test file in a free copy, with the mistake if there is one; return pytest's exit code (a timeout is 1)."""
    tree = trees.get()
    source = tree / "restore_diff" / (file or "__init__.py")
    text = source.read_text()
    try:
        if file:
            source.write_text(text.replace(old, new))
        # Plain asserts: no comparison of long sequences, which takes minutes.
        options = ["-x", "-n", "0", "--assert=plain", "-p", "no:cacheprovider"]
        command = [sys.executable, "-B", "-m", "pytest", *options, tests]
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        return done.returncode, done.stdout[-3000:]
    except subprocess.TimeoutExpired:
        return 1, f"timeout of {TIMEOUT_S} s"
    finally:
        source.write_text(text)
        trees.put(tree)


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
