"""Every file of a data set decoded once, as training and scoring decode it."""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from restore_diff.data.decoding import ImageError
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.leaks import Fingerprint, fingerprint
from restore_diff.data.names import PairPath


@dataclass(frozen=True)
class Picture:
    height: int
    width: int
    is_grey: bool
    fingerprint: Fingerprint


@dataclass
class Survey:
    """What the files hold: each is in one of the first two."""

    pictures: dict[Path, Picture] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)
    psnr: dict[str, float] = field(default_factory=dict)
    """dB of degraded against clean, by the name of the pair; infinite where they are equal."""


def survey(pairs: Iterable[PairPath], num_threads: int, on_read: Callable[[int], object]) -> Survey:
    """Decode all files, each clean one once; `on_read` hears how many files were done."""
    by_clean: dict[Path, list[PairPath]] = {}
    for pair in pairs:
        by_clean.setdefault(pair.clean, []).append(pair)
    found = Survey()
    with ThreadPoolExecutor(num_threads) as pool:  # Pillow and numpy work outside the interpreter's lock
        waiting = [pool.submit(_read_all, clean, those) for clean, those in by_clean.items()]
        try:
            for done in as_completed(waiting):
                part = done.result()
                found.pictures |= part.pictures
                found.unreadable |= part.unreadable
                found.psnr |= part.psnr
                on_read(len(part.pictures) + len(part.unreadable))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _read_all(clean: Path, pairs: list[PairPath]) -> Survey:
    """A clean file and all degraded ones that belong to it."""
    found = Survey()
    of_clean = _read(clean, found)
    for pair in pairs:
        if pair.degraded is None:
            continue
        pixels = _read(pair.degraded, found)
        if pixels is not None and of_clean is not None and pixels.shape == of_clean.shape:
            found.psnr[pair.name] = _psnr(pixels, of_clean)
    return found


def _read(path: Path, found: Survey) -> np.ndarray | None:
    """The pixels, uint8 (H,W,3), noted in `found`; None where there are none."""
    try:
        pixels = np.ascontiguousarray(read_rgb_uint8(path).permute(1, 2, 0).numpy())
    except ImageError as error:
        found.unreadable[path] = str(error)
        return None
    is_grey = bool((pixels[..., :1] == pixels[..., 1:]).all())
    found.pictures[path] = Picture(pixels.shape[0], pixels.shape[1], is_grey, fingerprint(pixels))
    return pixels


def _psnr(first: np.ndarray, second: np.ndarray) -> float:
    squared = np.square(first.astype(np.float32) - second).mean(dtype=np.float64)
    return 10 * math.log10(255**2 / squared) if squared else math.inf
