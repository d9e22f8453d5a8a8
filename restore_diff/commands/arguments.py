"""Types of command-line values: each turns a text into a value, or says what would have been right."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from restore_diff.files import printable

QUALITIES = ("fast", "balanced", "best")
SAMPLERS = ("ddim", "dpm++2m", "unipc", "heun")
WEATHERS = ("auto", "rain", "haze", "snow", "raindrop", "rain+haze", "snow+haze", "rain+raindrop", "none", "unknown")
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


def hyphenated(argv: list[str]) -> list[str]:
    """The arguments with --some_option spelled --some-option; the value after = stays as it is."""
    return [re.sub(r"^--[^=]+", lambda name: name[0].replace("_", "-"), text) for text in argv]


def path(text: str) -> Path:
    """A path; an empty one, as from an unset shell variable, is refused: Python takes it for the current folder."""
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
    """The name of a device; whether the machine has it, torch says later."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"must be auto, cpu, cuda, cuda:N or mps, got {printable(text)}")
    return text


def dtype(text: str) -> str:
    """A precision by its long name, given the long or the short one."""
    if text not in DTYPES:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(DTYPES)}, got {printable(text)}")
    return DTYPES[text]


def pixels(text: str) -> int:
    """A number of pixels, such as 200M."""
    number = re.fullmatch(r"(\d{1,12})([kMG]?)", text, re.ASCII)
    if number is None or int(number[1]) == 0:
        raise argparse.ArgumentTypeError(f"must be a number of pixels such as 200M, got {printable(text)}")
    return int(number[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[number[2]]
