"""Arguments, output, errors and exit codes that all commands share."""

import argparse
import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TextIO

from tqdm import tqdm

from restore_diff.errors import UserError
from restore_diff.files import printable

# Exit codes
OK = 0
BAD_USAGE = 2
"""User-facing error in arguments, config, data, checkpoint or files; the exit code of argparse."""
SOME_FAILED = 3
STOPPED = 4
INTERRUPTED = 130
"""128 + SIGINT, as in shells."""
READER_GONE = 141
"""128 + SIGPIPE: the program that read the output has ended, as `head` does."""
TERMINATED = 143
"""128 + SIGTERM."""

USER_ERRORS = (UserError, OSError)
"""Printed in one line each, without a traceback."""

QUALITIES = ("fast", "balanced")
SAMPLERS = ("ddim", "dpm++2m", "unipc", "heun")
WEATHERS = ("auto", "rain", "haze", "snow", "raindrop", "rain+haze", "snow+haze", "rain+raindrop", "none", "unknown")
PLUGIN = "Python file that adds what the checkpoint's config names; may be given again"
CHECKPOINT = "run folder, checkpoint or weights file (default: the newest run, or `shipped` where there is none)"
METRICS = ("psnr", "ssim", "lpips")
DTYPES = {
    "auto": "auto",
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}


def program(script: str) -> str:
    """The name for usage and errors: `restore.py`, or `restore-diff restore` if this process was started so."""
    by_command = Path(sys.argv[0]).stem == "restore-diff" or Path(sys.argv[0]).parts[-2:] == (
        "restore_diff",
        "__main__.py",
    )
    return f"restore-diff {script.removesuffix('.py')}" if by_command and script.endswith(".py") else script


def hyphenated(argv: list[str]) -> list[str]:
    """The arguments with --some_option replaced by --some-option; the value after = is unchanged."""
    return [re.sub(r"^--[^=]+", lambda name: name[0].replace("_", "-"), text) for text in argv]


def path(text: str) -> Path:
    """A path. An empty one, e.g. from an unset shell variable, is refused: Python means the current folder by it."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"not a path: {printable(repr(text))}")
    return Path(text)


def count(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """A whole number between two bounds."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not least <= int(text) <= most:
            limit = f" to {most}" if most < 2**63 - 1 else " or more"
            raise argparse.ArgumentTypeError(f"must be a whole number, {least}{limit}, got {printable(text)}")
        return int(text)

    return parse


def tile(text: str) -> str | int:
    """The side of a tile in pixels, 0 for no tiles, or "auto"."""
    return text if text == "auto" else count(0)(text)


def device(text: str) -> str:
    """The name of a device; not checked against this machine."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"must be auto, cpu, cuda, cuda:N or mps, got {printable(text)}")
    return text


def dtype(text: str) -> str:
    """The long name of a precision, from the long or the short one."""
    if text not in DTYPES:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(DTYPES)}, got {printable(text)}")
    return DTYPES[text]


def pixels(text: str) -> int:
    """A number of pixels, such as 200M."""
    number = re.fullmatch(r"(\d{1,12})([kMG]?)", text, re.ASCII)
    if number is None or int(number[1]) == 0:
        raise argparse.ArgumentTypeError(f"must be a number of pixels such as 200M, got {printable(text)}")
    return int(number[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[number[2]]


def say(*lines: object, to: TextIO | None = None) -> None:
    """Print each line, by default on stdout. Control characters, and letters the stream cannot encode, are escaped."""
    stream = to or sys.stdout
    encoding = stream.encoding or "utf-8"
    with tqdm.external_write_mode(stream):  # without breaking a progress bar
        for line in lines:
            stream.write(printable(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()


def lines_of(error: Exception | str) -> list[str]:
    """The message of an error, by lines; of an OSError, the file and the reason."""
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    return text.splitlines() or [type(error).__name__]


def complain(script: str, error: Exception | str) -> None:
    """Print an error on stderr, one line per mistake. Raises SystemExit if the reader of the output is gone."""
    if isinstance(error, BrokenPipeError):
        end_quietly()
    say(*(f"{program(script)}: {line}" for line in lines_of(error)), to=sys.stderr)


def run_command(script: str, work: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Return the exit code of `work`; mistakes of the user and Ctrl-C become one line and an exit code each."""
    try:
        return work()
    except USER_ERRORS as error:
        complain(script, error)
        return BAD_USAGE
    except KeyboardInterrupt:
        complain(script, interrupted)
        return INTERRUPTED


def end_quietly() -> NoReturn:
    """Raise SystemExit without a message, as Unix tools end when their output is not read any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes at exit
    raise SystemExit(READER_GONE)


@contextmanager
def printing(enabled: bool) -> Iterator[None]:
    """Suppress stdout inside the block unless `enabled`."""
    with contextlib.nullcontext() if enabled else contextlib.redirect_stdout(io.StringIO()):
        yield


class ConsoleHandler(logging.Handler):
    """Prints log records on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), to=sys.stderr)


@contextmanager
def logging_to_console() -> Iterator[None]:
    """Print log warnings of the package on stderr inside the block."""
    logger, handler = logging.getLogger("restore_diff"), ConsoleHandler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
