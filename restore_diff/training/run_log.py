"""What a run tells: the console, log.txt, metrics.jsonl, TensorBoard, samples."""

import io
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from restore_diff.files import printable, replace_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class Silence:
    """The log of a process that is not the first: it takes every line, and says nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class RunLog:
    """Writes under the run folder and to the console: a progress bar on a terminal, else one line per log interval.

    metrics.jsonl holds no clock time, so that a resumed run writes the same lines as an uninterrupted one. Close it, or
    use it in `with`.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._text: TextIO | None = (folder / "log.txt").open("a", encoding="utf-8")
        self._board: SummaryWriter | None = None
        self._bar: tqdm | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._text is not None:
            self._text.close()

    def line(self, text: str) -> None:
        """One line on the console and in log.txt, with control characters escaped."""
        tqdm.write(printable(text))
        sys.stdout.flush()
        self.note(text)

    def note(self, text: str) -> None:
        """One line in log.txt alone. A disk that does not take it costs one warning."""
        if self._text is None:
            return
        try:
            self._text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {printable(text)}\n")
            self._text.flush()
        except OSError as error:
            self._text = None
            self.line(f"warning: no more lines in log.txt ({error.strerror})")

    def begin(self, step: int, num_steps: int, batch_size: int) -> None:
        """Go on after `step` steps: what an earlier process wrote of later steps is cut away."""
        self._num_steps, self._batch_size = num_steps, batch_size
        metrics = self._folder / "metrics.jsonl"
        replace_atomically(metrics, _lines_up_to(metrics, step))
        self._metrics = metrics.open("a", encoding="utf-8")
        self._on_board(lambda: self._open_board(step))
        self._bar = tqdm(total=num_steps, initial=step, disable=None, unit="step", dynamic_ncols=True)
        self._begin_step, self._begin_time = step, time.monotonic()
        self.restart_clock(step)

    def restart_clock(self, step: int) -> None:
        """Leave the time since the last call out of the next figure of speed, e.g. that of a validation."""
        self._clock_step, self._clock_time = step, time.monotonic()

    def step_done(self) -> None:
        assert self._bar is not None
        self._bar.update()

    def training(self, step: int, loss: float, learning_rate: float, gradient_norm: float) -> None:
        """Means over the steps since the last call."""
        assert self._bar is not None
        values = {"loss": loss, "learning_rate": learning_rate, "gradient_norm": gradient_norm}
        self._record(step, values)
        rate = (step - self._clock_step) / max(time.monotonic() - self._clock_time, 1e-9)
        images_per_second = rate * self._batch_size
        self._scalars(
            step, {f"training/{k}": v for k, v in values.items()} | {"training/images_per_s": images_per_second}
        )

        self._bar.set_postfix_str(f"loss {loss:.4f}, lr {learning_rate:.1e}, {images_per_second:.1f} images/s")
        means = f"step {step}/{self._num_steps}  loss {loss:.4f}  lr {learning_rate:.1e}"
        line = f"{means}  {rate:.1f} it/s  eta {self._eta(step)}"
        if self._bar.disable:
            self.line(line)
        else:
            self.note(line)

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """Scores of the averaged weights after `step` steps."""
        values = {f"validation/{name}": score for name, score in scores.items()}
        self._record(step, values)
        self._scalars(step, values)
        self.line(f"validation {step}: {'  '.join(f'{name} {score:.4g}' for name, score in scores.items())}")

    def image(self, step: int, image: Tensor) -> None:
        """Keep a picture, (3, height, width) in [0, 1], as samples/step_000400.png and in TensorBoard."""
        pixels = image.detach().float().cpu().clamp(0, 1).mul(255).round().byte()
        encoded = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(encoded, "png")
        path = self._folder / "samples" / f"step_{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        replace_atomically(path, encoded.getvalue())
        self._on_board(lambda: self._board and self._board.add_image("samples", pixels, step))

    def flush(self) -> None:
        """Wait until the disk has the metrics: a checkpoint must not outlive the lines before it."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        self._on_board(lambda: self._board and self._board.flush())

    def end(self) -> None:
        """No more steps; `line` still works."""
        if self._bar is not None:
            self._bar.close()
            self._metrics.close()
            self._on_board(lambda: self._board and self._board.close())
        self._bar = self._board = None

    def _record(self, step: int, values: dict[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._metrics.write(json.dumps({"step": step} | finite) + "\n")
        self._metrics.flush()

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._on_board(lambda name=name, value=value: self._board and self._board.add_scalar(name, value, step))

    def _open_board(self, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._board = SummaryWriter(str(self._folder / "tb"), purge_step=step + 1)

    def _on_board(self, action: Callable[[], object]) -> None:
        """TensorBoard is a convenience: whatever happens to it, training goes on, after one warning."""
        try:
            action()
        except Exception as error:
            self._board = None
            self.line(f"warning: TensorBoard is off from here on ({type(error).__name__}: {error})")

    def _eta(self, step: int) -> str:
        """All that went on since the start counted in, also validation and saving."""
        per_step = (time.monotonic() - self._begin_time) / max(step - self._begin_step, 1)
        minutes, seconds = divmod(round(per_step * (self._num_steps - step)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


def _lines_up_to(metrics: Path, step: int) -> bytes:
    """The whole lines of steps not after `step`; a line that a kill cut off is no line."""
    if not metrics.exists():
        return b""
    return b"".join(line for line in metrics.read_bytes().splitlines(keepends=True) if _step_of(line) <= step)


def _step_of(line: bytes) -> float:
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
