"""The page of `restore-diff app`, by gradio: restore photographs, and look at training runs."""

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

import gradio as gr  # type: ignore[import-not-found]
import pandas  # type: ignore[import-not-found]
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from restore_diff import trained
from restore_diff.commands.console import QUALITIES, WEATHERS
from restore_diff.data.images import RasterImage, read_image, write_image
from restore_diff.data.metadata import STRIPPED
from restore_diff.errors import UserError
from restore_diff.labels import decided
from restore_diff.restoration.folder import WHITE_UNCERTAINTY, restore_folder
from restore_diff.restoration.restorer import Restorer, bands
from restore_diff.restoration.sources import Job, Naming, plan_jobs
from restore_diff.tensors import Images

PREVIEW_PX, THUMBNAIL_PX = 1600, 320
"""Longest side of the pictures in the page; the files to download have the size of the photographs."""
NUM_AT_ONCE = 2
"""Users whose photographs are restored at the same time; further users wait."""
KEPT_S = 24 * 3600
"""Age at which uploads and results are removed."""
SAMPLES = (0, 1, 2, 4, 8, 16)
HIGHLIGHT = torch.tensor([1.0, 0.0, 0.55])[:, None, None]
CSS = ".grid-wrap.fixed-height { min-height: 0 }"
MOVE_DIVIDER = "position => ({__type__: 'update', slider_position: position})"
WORDS = {
    "auto": "detect in each photograph",
    "none": "no weather",
    "unknown": "I do not know",
    "raindrop": "raindrops on the lens",
}
Progress = Callable[[float, str], object]
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
        if not (self.config.model.condition_channels or self.config.sampler.guidance):
            raise UserError(f"{path}: an unconditional network restores with restore.py --zero-shot only")
        self.device = trained.select_device(device)
        self.model = trained.trained_network(self.config, weights, self.device)
        self.precision: Any = trained.select_precision("auto", self.device)
        self.max_pixels, self.folder = max_pixels, folder
        self.description = f"weights {path} (step {weights.step})  {self.device} {self.precision}"
        kinds = set(self.config.model.labels) | {"unknown"} if self.config.model.hint else set()
        self.weathers = [name for name in WEATHERS if name == "auto" or set(name.split("+")) <= kinds]

    def restore(
        self, uploads: Sequence[tuple[Path, str]], quality: str, weather: str, num_samples: int, progress: Progress
    ) -> Iterator[Photograph | str]:
        """Restore files with names, as restore.py does; yield a photograph or a message for each, in order.

        0 samples: as many as `quality` sets. Raises UserError for unknown values, OSError from the disk.
        """
        if num_samples not in SAMPLES:
            raise UserError(f"the number of samples must be one of {SAMPLES}, got {num_samples!r}")
        config = trained.at_quality(self.config, quality)
        if num_samples:
            config = trained.with_overrides(config, sampler__num_samples=num_samples)
        label = None if weather == "auto" else weather
        restorer = trained.restorer(config, self.model, self.device, self.precision, label)
        restoring = _Restoring(restorer, config.sampler.num_steps, config.model.labels, label, progress)
        remove_old(self.folder)
        work = Path(mkdtemp(dir=self.folder))
        place(uploads, work / "photographs")
        several = config.sampler.num_samples > 1
        plan = plan_jobs([str(work / "photographs")], work / "restored", uncertainty=several)
        yield from (f"{path.name}: {reason}" for path, reason in plan.sources.unreadable + plan.sources.unsupported)
        yield from (f"{number} ignored, not an image: {kind}" for kind, number in plan.sources.ignored.most_common())
        for index, job in enumerate(plan.jobs):
            restoring.part = index, len(plan.jobs)
            for outcome in restore_folder([job], restoring, self.max_pixels):
                if outcome.reason or outcome.note:
                    yield f"{job.source.name}: {outcome.reason or outcome.note}"
                if not outcome.reason:
                    yield previews(job, restoring.weather, Path(mkdtemp(dir=work)))


class _Restoring:
    """The function for `restore_folder`, with progress; `weather` is that of the last image, in words."""

    def __init__(
        self, restorer: Restorer, num_steps: int, labels: Sequence[str], label: str | None, progress: Progress
    ):
        self.restorer, self.num_steps, self.labels, self.progress = restorer, num_steps, labels, progress
        self.part: tuple[int, int] = 0, 1
        self.weather = f"{WORDS.get(label, label)} (your choice)" if label else ""

    @torch.no_grad()
    def __call__(self, image: Images, name: str) -> Images:
        (index, total), number = self.part, self.restorer.samples.number
        num_calls, done = self.num_steps * number * len(bands(*image.shape[-2:]).starts), 0

        def report(*_: object) -> None:
            nonlocal done
            self.progress((index + min(done / num_calls, 1)) / total, f"{name} ({index + 1} of {total})")
            done += 1

        report()
        restorer = copy(self.restorer)
        if restorer.recognition is not None:  # as the restorer does by itself, to show its confidence
            logits = restorer.recognition.logits(image)
            restorer.predictor, restorer.recognition = restorer.recognition.with_label(decided(logits)), None
            self.weather = weather_in_words(logits, self.labels)
        if number > 1:
            return torch.cat(restorer.restore_with_spread(image, [name], callback=report))
        return restorer.restore(image, [name], callback=report)


def weather_in_words(logits: Tensor, labels: Sequence[str]) -> str:
    """Logits (1, num_labels) -> the decision, and the confidence in each label, in percent, highest first."""
    hint = decided(logits)[0]
    ranked = sorted(zip(logits.sigmoid()[0].tolist(), labels, strict=True), reverse=True)
    confidences = ", ".join(f"{WORDS.get(label, label)} {confidence:.0%}" for confidence, label in ranked)
    if hint[1:].any():
        return f"{labels[int(hint.argmax())]} detected ({confidences})"
    return f"{'little or no weather' if hint[0] else 'weather not clear, no label used'} ({confidences})"


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
    """Write the pictures for the page to `folder`. Raises OSError and ImageError."""
    degraded, restored = read_image(job.source), read_image(job.output)
    uncertain = None
    if job.uncertainty is not None:
        pixels = torch.lerp(restored.pixels, HIGHLIGHT, read_image(job.uncertainty).pixels)
        metadata = replace(restored.metadata, icc_profile=b"") if restored.grey else restored.metadata
        coloured = replace(restored, pixels=pixels, grey=False, metadata=metadata)
        uncertain = _preview(folder / "uncertain.jpg", coloured)
    before, after = _preview(folder / "before.jpg", degraded), _preview(folder / "after.jpg", restored)
    thumbnail = _preview(folder / "thumbnail.jpg", restored, THUMBNAIL_PX)
    return Photograph(job.source.name, weather, job.output, before, after, uncertain, thumbnail)


def _preview(path: Path, image: RasterImage, longest: int = PREVIEW_PX) -> Path:
    pixels, (height, width) = image.pixels, image.pixels.shape[-2:]
    if (scale := longest / max(height, width)) < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
    metadata = replace(image.metadata, **STRIPPED)
    write_image(path, pixels, replace(image, pixels=pixels, alpha=None, metadata=metadata), quality=90)
    return path


def zipped(photographs: Sequence[Photograph]) -> Path:
    """Pack the outputs and their uncertainty maps as restored.zip. The files are compressed already."""
    root = next(parent for parent in photographs[0].output.parents if parent.name == "restored")
    with zipfile.ZipFile(root.with_suffix(".zip"), "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(root))
    return root.with_suffix(".zip")


def remove_old(folder: Path) -> None:
    """Remove uploads and results that are older than KEPT_S."""
    for entry in folder.iterdir():
        if entry.is_dir() and time.time() - entry.stat().st_mtime > KEPT_S:
            shutil.rmtree(entry, ignore_errors=True)


def summary(num_restored: int, problems: Sequence[str], seconds: float) -> str:
    """Markdown: the number of restored photographs, and what went wrong with the others."""
    lines = ["", "**Problems:**", "", *(f"- {escape(problem)}" for problem in problems)] if problems else []
    return "\n".join([f"{num_restored} restored in {seconds:.1f} s", *lines])


def page(service: Service, runs: Path) -> gr.Blocks:
    """The page with both tabs."""
    with gr.Blocks(title="restore_diff", analytics_enabled=False) as blocks:
        with gr.Tab("Restore photographs"):
            _RestoreTab(service)
        with gr.Tab("Training runs") as tab:
            _run_tab(tab, runs)
    return blocks


class _RestoreTab:
    """Components of the first tab, and the functions behind them. Results belong to the session of a user."""

    def __init__(self, service: Service):
        self.service = service
        self.found, self.current = gr.State([]), gr.State(0)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self._add_controls(service.weathers)
            with gr.Column(scale=5, min_width=300):
                self._add_results()
        shown = [self.current, self.slider, self.divider, self.words, self.overlay, self.one]
        private: dict[str, Any] = {"api_visibility": "private"}
        running = self.start.click(
            self.restore,
            [*self.inputs, self.overlay],
            [self.found, self.messages, self.gallery, self.every, *shown],
            concurrency_limit=NUM_AT_ONCE,
            preprocess=False,  # the raw values hold the names of the files on the user's disk
            show_progress_on=self.slider,
            **private,
        )
        self.stop.click(None, cancels=running)
        self.divider.input(None, self.divider, self.slider, js=MOVE_DIVIDER)  # gradio's image slider takes no keys
        self.gallery.select(self.pick, [self.found, self.overlay], shown, show_progress="hidden", **private)
        chosen = [self.found, self.current, self.overlay]
        self.overlay.input(self.show, chosen, shown, show_progress="hidden", **private)

    def _add_controls(self, weathers: Sequence[str]) -> None:
        files = gr.File(label="Photographs", file_count="multiple", height=180)
        with gr.Accordion("A whole folder", open=False):
            tree = gr.File(label="Folder", file_count="directory", height=140)
        quality = gr.Radio([(WORDS.get(name, name), name) for name in QUALITIES], value="balanced", label="Quality")
        weather = gr.Dropdown([(WORDS.get(name, name), name) for name in weathers], value="auto", label="Weather")
        counts = [(str(number or "as the quality sets"), number) for number in SAMPLES]
        about = "Restorations to average. With two or more, the page shows where they differ."
        samples = gr.Dropdown(counts, value=0, label="Samples", info=about)
        self.inputs = [files, tree, quality, weather, samples]
        with gr.Row():
            self.start, self.stop = gr.Button("Restore", variant="primary"), gr.Button("Stop")
        self.messages = gr.Markdown(elem_id="messages")

    def _add_results(self) -> None:
        pictures: dict[str, Any] = {"label": "Before and after", "max_height": 640, "buttons": ["fullscreen"]}
        self.slider = gr.ImageSlider(interactive=False, **pictures)
        position = "Divider between before and after, in percent"
        self.divider = gr.Slider(0, 100, 50, step=1, label=position, visible=False)
        self.words = gr.Markdown("Add photographs, then press Restore.", elem_id="weather")
        about = f"Highlight where the samples differ (full colour: standard deviation of {WHITE_UNCERTAINTY:.0%})"
        self.overlay = gr.Checkbox(label=about, visible=False)
        self.gallery = gr.Gallery(label="Restored", columns=5, allow_preview=False, visible=False, buttons=[])
        with gr.Row():
            self.one = gr.DownloadButton("Download this photograph", interactive=False)
            self.every = gr.DownloadButton("Download all (.zip)", interactive=False)

    def show(self, photographs: Sequence[Photograph], index: int, highlight: bool) -> dict[Any, Any]:
        """Show one of the photographs."""
        photograph = photographs[index]
        after = photograph.uncertain if highlight and photograph.uncertain else photograph.after
        return {
            self.current: index,
            self.slider: (str(photograph.before), str(after)),
            self.divider: gr.Slider(visible=True),
            self.words: f"**{escape(photograph.name)}** &nbsp; {photograph.weather}",
            self.overlay: gr.Checkbox(visible=photograph.uncertain is not None),
            self.one: gr.DownloadButton(value=str(photograph.output), interactive=True),
        }

    def pick(self, photographs: list[Photograph], highlight: bool, event: gr.SelectData) -> dict[Any, Any]:
        """Show the photograph that was chosen in the gallery."""
        return self.show(photographs, event.index, highlight)

    def restore(
        self,
        files: Any,
        tree: Any,
        quality: str,
        weather: str,
        num_samples: int,
        highlight: bool,
        progress: Any = gr.Progress(),  # noqa: B008  the default by which gradio recognises it
    ) -> Iterator[dict[Any, Any]]:
        """Restore the uploads, and show each photograph when it is ready."""
        uploads = [(Path(file["path"]), file["orig_name"]) for file in [*(files or []), *(tree or [])]]
        photographs: list[Photograph] = []
        problems, begun = [] if uploads else ["add photographs first"], time.monotonic()
        yield {self.messages: "", self.every: gr.DownloadButton(interactive=False)}
        try:
            results = self.service.restore(uploads, quality, weather, num_samples, progress) if uploads else ()
            for result in results:
                if isinstance(result, str):
                    problems.append(result)
                else:
                    photographs.append(result)
                thumbnails = [(str(photograph.thumbnail), photograph.name) for photograph in photographs]
                yield {
                    self.found: photographs,
                    self.messages: summary(len(photographs), problems, time.monotonic() - begun),
                    self.gallery: gr.Gallery(thumbnails, visible=len(photographs) > 1),
                } | (self.show(photographs, len(photographs) - 1, highlight) if photographs else {})
        except (UserError, OSError) as error:
            problems.append(str(error))
        archive = str(zipped(photographs)) if len(photographs) > 1 else None
        yield {
            self.messages: summary(len(photographs), problems, time.monotonic() - begun),
            self.every: gr.DownloadButton(value=archive, interactive=archive is not None),
        }


def _run_tab(tab: gr.Tab, runs: Path) -> None:
    with gr.Row():
        name = gr.Dropdown([], label="Run", scale=4)
        refresh = gr.Button("Refresh", scale=0, min_width=140)
    text = gr.Markdown(elem_id="run")
    with gr.Row():
        loss = gr.LinePlot(x="step", y="loss", title="Training loss", height=260)
        psnr = gr.LinePlot(x="step", y="psnr", title="Validation PSNR (dB)", height=260)
    label = "Tests, then samples, the newest first"
    pictures = gr.Gallery(label=label, columns=3, object_fit="contain", format="png", buttons=[])

    def look(chosen: str | None) -> dict[Any, Any]:
        """The content of the tab for a run; without a choice, for the newest one."""
        names = run_names(runs)
        if not names:
            return {
                text: f"No run in {escape(str(runs.absolute()))}. Train one: `restore-diff train --cfg derain.yaml`"
            }
        run = runs / (chosen if chosen in names else names[0])
        return {
            name: gr.Dropdown(names, value=run.name),
            text: run_text(run),
            loss: curve(run, "loss"),
            psnr: curve(run, "validation/psnr"),
            pictures: run_pictures(run),
        }

    outputs, events = [name, text, loss, psnr, pictures], [tab.select, refresh.click, name.input]
    gr.on(events, look, name, outputs, preprocess=False, show_progress="hidden", api_visibility="private")


def run_names(runs: Path) -> list[str]:
    """Names of the run folders with a log, the newest first."""
    logs = [path for path in runs.glob("*/metrics.jsonl") if (path.parent / "status.json").is_file()]
    return [path.parent.name for path in sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True)]


def run_text(run: Path) -> str:
    """Markdown: the state of the run, and the tables of its test sets."""
    status = json.loads((run / "status.json").read_text())
    lines = [f"**{status['state']}** at step {status['step']}  {escape(status['reason'])}"]
    return "\n\n".join([*lines, *(path.read_text() for path in sorted(run.glob("test/**/table.md")))])


def curve(run: Path, key: str) -> pandas.DataFrame:
    """Values of metrics.jsonl by step; the column is named after the last part of `key`. Leave out a partial line."""
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return pandas.DataFrame(points, columns=["step", key.rpartition("/")[2]])


def run_pictures(run: Path) -> list[tuple[Image.Image, str]]:
    """Pictures of the test sets, and the 20 newest samples, decoded: gradio opens no file of the run folder."""
    named = [(path, f"test {path.parent.name}") for path in sorted(run.glob("test/**/before_after.png"))]
    samples = sorted(run.glob("samples/step_*.png"), reverse=True)[:20]
    named += [(path, path.stem.replace("_", " ")) for path in samples]
    return [(Image.open(path), name) for path, name in named]
