"""The page of `restore-diff app`, by gradio: restore photographs, and look at a training run."""

import json
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from html import escape
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import Any, NamedTuple

import gradio as gr
import pandas
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from restore_diff import trained
from restore_diff.commands.console import QUALITIES, WEATHERS
from restore_diff.data.images import RasterImage, read_image, write_image
from restore_diff.data.names import is_image
from restore_diff.errors import UserError
from restore_diff.evaluation.evaluator import INPUT
from restore_diff.evaluation.report import GAIN
from restore_diff.labels import decided
from restore_diff.restoration.folder import restore_folder
from restore_diff.restoration.restorer import Restorer, bands
from restore_diff.restoration.sources import Job, Naming, plan_jobs
from restore_diff.tensors import Images

PREVIEW_PX, THUMBNAIL_PX = 1600, 320
"""Longest side of the pictures in the page; the files to download have the size of the photographs."""
NUM_AT_ONCE = 2
"""Users whose photographs are restored at the same time; further users wait."""
KEPT_S = 24 * 3600
"""Age at which uploads and results are removed."""
SAMPLES = (0, 2, 4, 8, 16)
NUM_SAMPLE_PICTURES = 20
HIGHLIGHT = torch.tensor([1.0, 0.0, 0.55])[:, None, None]
WORDS = {"none": "no weather", "raindrop": "raindrops on the lens"}
HELP = {
    "fast": "fast",
    "balanced": "balanced",
    "best": "best (slow)",
    "auto": "detect in each photograph",
    "none": "no weather",
    "unknown": "I do not know",
    "raindrop": "raindrops on the lens",
}
CSS = ".grid-wrap.fixed-height { min-height: 0 }"
MOVE_DIVIDER = "position => ({__type__: 'update', slider_position: position})"
Progress = Callable[[float, str], None]
"""(share of the work that is done, from 0 to 1; what is being done)."""


class Photograph(NamedTuple):
    """A restored photograph: the file to download, and JPEG pictures for the page."""

    name: str
    weather: str
    output: Path
    before: Path
    after: Path
    uncertain: Path | None
    """`after` with uncertain pixels highlighted; None for a single sample."""
    thumbnail: Path


class Service:
    """Restores the photographs of all users with one set of weights."""

    def __init__(self, checkpoint: Path | None, device: str, max_pixels: int, folder: Path):
        """`folder` receives photographs and results. Raises UserError for unusable weights or devices."""
        path, self.config, weights = trained.load_experiment(checkpoint)
        self.device = trained.select_device(device)
        self.model = trained.trained_network(self.config, weights, self.device)
        self.precision = trained.select_precision("auto", self.device)
        self.max_pixels, self.folder = max_pixels, folder
        self.description = f"weights {path} (step {weights.step})  {self.device} {self.precision}"

    @property
    def weathers(self) -> list[str]:
        """Labels that the network takes, "auto" first."""
        model = self.config.model
        return [
            name
            for name in WEATHERS
            if name == "auto" or (model.hint and (name == "unknown" or set(name.split("+")) <= set(model.labels)))
        ]

    def restorer(self, quality: str, weather: str, num_samples: int) -> tuple[Restorer, int]:
        """The restorer of restore.py and its number of steps; 0 samples: as many as `quality` sets.

        Raises UserError for unknown values.
        """
        if num_samples not in SAMPLES:
            raise UserError(f"the number of samples must be one of {SAMPLES}, got {num_samples!r}")
        config = trained.at_quality(self.config, quality)
        if num_samples:
            config = trained.with_overrides(config, sampler__num_samples=num_samples)
        label = None if weather == "auto" else weather
        return trained.restorer(config, self.model, self.device, self.precision, label), config.sampler.num_steps

    def restore(
        self, uploads: Sequence[tuple[Path, str]], quality: str, weather: str, num_samples: int, progress: Progress
    ) -> Iterator[Photograph | str]:
        """Restore files with names, as restore.py does; yield a photograph or a message for each, in order.

        Raises UserError for unknown values, OSError from the disk.
        """
        restoring = _Restoring(*self.restorer(quality, weather, num_samples), self.config.model.labels, progress)
        several = restoring.restorer.samples.number > 1
        remove_old(self.folder)
        work = Path(mkdtemp(dir=self.folder))
        place(uploads, work / "photographs")
        plan = plan_jobs([str(work / "photographs")], work / "restored", Naming(), is_image, uncertainty=several)
        yield from (f"{path.name}: {reason}" for path, reason in plan.sources.unreadable)
        yield from (f"{number} ignored, not an image: {kind}" for kind, number in plan.sources.ignored.most_common())
        for index, job in enumerate(plan.jobs):
            restoring.part = index, len(plan.jobs)
            for outcome in restore_folder([job], restoring, self.max_pixels):
                if outcome.reason:
                    yield f"{job.source.name}: {outcome.reason}"
                    continue
                if outcome.note:
                    yield f"{job.source.name}: only {outcome.note}"
                yield previews(job, restoring.weather or WORDS.get(weather, weather), Path(mkdtemp(dir=work)))


class _Restoring:
    """The function for `restore_folder`, with progress; keeps the weather of the last image in words."""

    def __init__(self, restorer: Restorer, num_steps: int, labels: Sequence[str], progress: Progress):
        self.restorer, self.num_steps, self.labels, self.progress = restorer, num_steps, labels, progress
        self.part, self.weather = (0, 1), ""

    def __call__(self, image: Images, name: str) -> Images:
        index, total = self.part
        number = self.restorer.samples.number
        num_calls, done = self.num_steps * number * len(bands(*image.shape[-2:]).starts), 0

        def report(*_: object) -> None:
            nonlocal done
            self.progress((index + min(done / num_calls, 1)) / total, f"{name} ({index + 1} of {total})")
            done += 1

        report()
        ready, self.weather = with_weather(self.restorer, image, self.labels)
        if number > 1:
            return torch.cat(ready.restore_with_spread(image, [name], callback=report))
        return ready.restore(image, [name], callback=report)


@torch.no_grad()
def with_weather(restorer: Restorer, image: Images, labels: Sequence[str]) -> tuple[Restorer, str]:
    """Detect the weather once: the restorer for this image, and the weather in words, "" if it is not detected."""
    if restorer.recognition is None:
        return restorer, ""
    logits = restorer.recognition.logits(image)
    ready = copy(restorer)
    ready.predictor, ready.recognition = restorer.recognition.with_label(decided(logits)), None
    return ready, weather_in_words(logits, labels)


def weather_in_words(logits: Tensor, labels: Sequence[str]) -> str:
    """Logits (1, num_labels) -> the decision and the confidence in each label, in percent, highest first."""
    hint = decided(logits)[0]
    ranked = sorted(zip(logits.sigmoid()[0].tolist(), labels, strict=True), reverse=True)
    confidences = ", ".join(f"{WORDS.get(label, label)} {confidence:.0%}" for confidence, label in ranked)
    if hint[1:].any():
        found = f"{labels[int(hint.argmax())]} detected"
    elif hint[0] > 0:
        found = "probably no weather, so little is changed"
    else:
        found = "weather not clear, restored without a label"
    return f"{found} ({confidences})"


def place(uploads: Sequence[tuple[Path, str]], folder: Path) -> None:
    """Link files into a folder by the names on the user's disk, which address the noise.

    The names come from the browser, without folders. One whose output has the name of an earlier one goes into 2/, 3/.
    """
    counts: Counter[str] = Counter()
    for path, name in uploads:
        name = PurePosixPath(name.replace("\\", "/")).name
        name = name if name.strip(".") else "photograph"
        output = Naming().name(name).casefold()
        counts[output] += 1
        target = folder / name if counts[output] == 1 else folder / str(counts[output]) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(path)


def previews(job: Job, weather: str, folder: Path) -> Photograph:
    """Write the pictures for the page. Raises OSError."""
    degraded, restored = read_image(job.source), read_image(job.output)
    uncertain = None
    if job.uncertainty is not None:
        strength = read_image(job.uncertainty).pixels
        highlighted = torch.lerp(restored.pixels, HIGHLIGHT, strength)
        profile = b"" if restored.grey else restored.icc_profile
        coloured = replace(restored, pixels=highlighted, grey=False, icc_profile=profile)
        uncertain = _preview(folder / "uncertain.jpg", coloured, PREVIEW_PX)
    return Photograph(
        job.source.name,
        weather,
        job.output,
        _preview(folder / "before.jpg", degraded, PREVIEW_PX),
        _preview(folder / "after.jpg", restored, PREVIEW_PX),
        uncertain,
        _preview(folder / "thumbnail.jpg", restored, THUMBNAIL_PX),
    )


def _preview(path: Path, image: RasterImage, longest: int) -> Path:
    height, width = image.pixels.shape[-2:]
    pixels = image.pixels
    if (scale := longest / max(height, width)) < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
    write_image(path, pixels, replace(image, pixels=pixels, alpha=None, exif=b""), quality=90)
    return path


def remove_old(folder: Path) -> None:
    """Remove uploads and results that are older than KEPT_S."""
    for entry in folder.iterdir():
        if entry.is_dir() and time.time() - entry.stat().st_mtime > KEPT_S:
            shutil.rmtree(entry, ignore_errors=True)


def zipped(photographs: Sequence[Photograph]) -> Path:
    """Pack the outputs, and their uncertainty maps, as restored.zip. The files are compressed already."""
    root = next(parent for parent in photographs[0].output.parents if parent.name == "restored")
    archive = root.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            file.write(path, path.relative_to(root))
    return archive


# The page: restoring.


def page(service: Service, runs: Path) -> gr.Blocks:
    """Both tabs."""
    with gr.Blocks(title="restore_diff", analytics_enabled=False) as blocks:
        with gr.Tab("Restore photographs"):
            _restore_tab(service)
        with gr.Tab("Training runs") as tab:
            _run_tab(tab, runs)
    return blocks


def _restore_tab(service: Service) -> None:
    photographs, current = gr.State([]), gr.State(0)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            files = gr.File(label="Photographs", file_count="multiple", height=180)
            with gr.Accordion("A whole folder", open=False):
                folder = gr.File(label="Folder", file_count="directory", height=140)
            named = {name: HELP.get(name, name) for name in (*QUALITIES, *service.weathers)}
            quality = gr.Radio([(named[name], name) for name in QUALITIES], value="balanced", label="Quality")
            weather = gr.Dropdown([(named[name], name) for name in service.weathers], value="auto", label="Weather")
            counts = [(str(n) if n else "as the quality sets", n) for n in SAMPLES]
            about = "Restorations to average. With two or more, the page shows where they differ."
            samples = gr.Dropdown(counts, value=0, label="Samples", info=about)
            with gr.Row():
                start = gr.Button("Restore", variant="primary")
                stop = gr.Button("Stop")
            messages = gr.Markdown(elem_id="messages")
        with gr.Column(scale=5, min_width=300):
            slider = gr.ImageSlider(
                label="Before and after", type="filepath", interactive=False, max_height=640, buttons=["fullscreen"]
            )
            divider = gr.Slider(0, 100, 50, step=1, label="Divider between before and after, in percent", visible=False)
            words = gr.Markdown("Add photographs, then press Restore.", elem_id="weather")
            overlay = gr.Checkbox(label="Highlight where the samples differ (full colour: 0.1 of the range)", visible=False)
            gallery = gr.Gallery(
                label="Restored", columns=5, height="auto", allow_preview=False, visible=False, buttons=[]
            )
            with gr.Row():
                one = gr.DownloadButton("Download this photograph", interactive=False)
                every = gr.DownloadButton("Download all (.zip)", interactive=False)

    def show(found: Sequence[Photograph], index: int, highlight: bool) -> dict[Any, Any]:
        photograph = found[index]
        after = photograph.uncertain if highlight and photograph.uncertain else photograph.after
        told = f" &nbsp; {photograph.weather}" if photograph.weather else ""
        return {
            current: index,
            slider: (str(photograph.before), str(after)),
            words: f"**{escape(photograph.name)}**{told}",
            one: gr.DownloadButton(value=str(photograph.output), interactive=True),
            overlay: gr.Checkbox(visible=photograph.uncertain is not None),
            divider: gr.Slider(visible=True),
        }

    def restore(
        chosen: Any, tree: Any, quality: str, weather: str, num_samples: int, highlight: bool, progress=gr.Progress()
    ) -> Iterator[dict[Any, Any]]:
        uploads = [(Path(file["path"]), file["orig_name"]) for file in [*(chosen or []), *(tree or [])]]
        if not uploads:
            yield {messages: "Add photographs first."}
            return
        found: list[Photograph] = []
        problems: list[str] = []
        begun = time.monotonic()
        yield {messages: "", every: gr.DownloadButton(value=None, interactive=False)}
        try:
            for result in service.restore(uploads, quality, weather, num_samples, progress):
                (problems if isinstance(result, str) else found).append(result)
                thumbnails = [(str(photograph.thumbnail), photograph.name) for photograph in found]
                yield {
                    photographs: found,
                    messages: summary(len(found), problems, time.monotonic() - begun),
                    gallery: gr.Gallery(value=thumbnails, visible=len(found) > 1),
                } | (show(found, len(found) - 1, highlight) if found else {})
        except (UserError, OSError) as error:
            problems.append(str(error))
        ended = {messages: summary(len(found), problems, time.monotonic() - begun)}
        if len(found) > 1:
            ended[every] = gr.DownloadButton(value=str(zipped(found)), interactive=True)
        yield ended

    def pick(found: list[Photograph], highlight: bool, event: gr.SelectData) -> dict[Any, Any]:
        return show(found, event.index, highlight)

    shown = [current, slider, words, one, overlay, divider]
    inputs = [files, folder, quality, weather, samples, overlay]
    running = start.click(
        restore,
        inputs,
        [photographs, messages, gallery, every, *shown],
        concurrency_limit=NUM_AT_ONCE,
        preprocess=False,  # the raw values hold the names of the files on the user's disk
        show_progress_on=slider,
        api_visibility="private",
    )
    stop.click(None, cancels=running)
    divider.input(None, divider, slider, js=MOVE_DIVIDER)  # gradio's image slider takes no keys
    gallery.select(pick, [photographs, overlay], shown, show_progress="hidden", api_visibility="private")
    overlay.input(show, [photographs, current, overlay], shown, show_progress="hidden", api_visibility="private")


def summary(num_restored: int, problems: Sequence[str], seconds: float) -> str:
    """Markdown: the number of restored photographs, and what went wrong with the others."""
    lines = [f"{num_restored} restored in {seconds:.1f} s"]
    if problems:
        lines += ["", "**Not restored:**", "", *(f"- {escape(problem)}" for problem in problems)]
    return "\n".join(lines)


# The page: training runs.

SCORE_HEADERS = ["test set", "metric", "images", "input", "restored", "95 % interval of the mean"]


def _run_tab(tab: gr.Tab, runs: Path) -> None:
    with gr.Row():
        name = gr.Dropdown([], label="Run", scale=4)
        refresh = gr.Button("Refresh", scale=0, min_width=140)
    state = gr.Markdown(elem_id="run")
    with gr.Row():
        loss = gr.LinePlot(x="step", y="loss", title="Training loss", height=260)
        psnr = gr.LinePlot(x="step", y="psnr", title="Validation PSNR (dB)", height=260)
    scores = gr.Dataframe(headers=SCORE_HEADERS, label="Scores of test.py", interactive=False)
    samples = gr.Gallery(label="Samples by step, newest first", columns=2, height="auto", format="png")

    def look(chosen: str | None) -> dict[Any, Any]:
        names = run_names(runs)
        if not names:
            return {state: f"No run in {escape(str(runs.absolute()))}. Train one: `restore-diff train --cfg derain.yaml`"}
        chosen = chosen if chosen in names else names[0]
        run = runs / chosen
        steps = curves(run)
        return {
            name: gr.Dropdown(names, value=chosen),
            state: run_state(run),
            loss: pandas.DataFrame(steps["loss"], columns=["step", "loss"]),
            psnr: pandas.DataFrame(steps["validation/psnr"], columns=["step", "psnr"]),
            scores: score_rows(run),
            samples: run_samples(run),
        }

    outputs = [name, state, loss, psnr, scores, samples]
    events = [tab.select, refresh.click, name.input]
    gr.on(events, look, name, outputs, preprocess=False, show_progress="hidden", api_visibility="private")


def run_names(runs: Path) -> list[str]:
    """Names of the run folders with a log, the newest first."""
    logs = sorted(runs.glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.name for path in logs]


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of the training loss and of the validation PSNR; a line being written is left out."""
    found: dict[str, list[tuple[int, float]]] = {"loss": [], "validation/psnr": []}
    for line in (run / "metrics.jsonl").read_text().splitlines(keepends=True):
        values = json.loads(line) if line.endswith("\n") else {}
        for key, points in found.items():
            if values.get(key) is not None:
                points.append((values["step"], values[key]))
    return found


def run_state(run: Path) -> str:
    """Markdown such as `**finished** at step 3000`."""
    try:
        status = json.loads((run / "status.json").read_text())
    except (OSError, ValueError):
        return "no status.json yet"
    reason = f": {escape(status['reason'])}" if status.get("reason") else ""
    return f"**{escape(str(status['state']))}** at step {status['step']}{reason}"


def score_rows(run: Path) -> list[list[str]]:
    """One row of SCORE_HEADERS for each test set and metric."""
    rows = []
    for path in sorted(run.glob("test/**/summary.json")):
        report = json.loads(path.read_text())
        for column, values in report["summary"].items():
            if column.endswith((INPUT, GAIN)) or values["mean"] is None:
                continue
            decimals = 2 if column.startswith("psnr") else 4
            before = report["summary"].get(column + INPUT, {}).get("mean")
            shown = [before, values["mean"], *(values["ci95"] or ())]
            texts = ["-" if value is None else f"{value:.{decimals}f}" for value in shown]
            rows.append([report["dataset"], column, str(values["n"]), *texts[:2], " to ".join(texts[2:]) or "-"])
    return rows


def run_samples(run: Path) -> list[tuple[Image.Image, str]]:
    """The newest sample pictures, as images: gradio must not open files of the run folder."""
    paths = sorted(run.glob("samples/step_*.png"), reverse=True)[:NUM_SAMPLE_PICTURES]
    return [(Image.open(path), f"step {int(path.stem.removeprefix('step_'))}") for path in paths]
