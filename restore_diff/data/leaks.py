"""Find pictures that occur twice, also slightly cropped, mirrored, turned, resized, compressed or brightened.

A picture becomes a thumbnail of 64x64 and a descriptor: its 8x8 lowest cosine coefficients, each times its frequency,
because unrelated photographs share the brightness of large areas. Mirroring and turning change only signs and the order
of coefficients, so all eight orientations are compared by one matrix product each. Pairs with similar descriptors are
verified on the details of their thumbnails. docs/doctor.md measures the thresholds.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

THUMBNAIL_PX = 64
NUM_FREQUENCIES = 8
MIN_CANDIDATE = 0.75
"""Least correlation of descriptors at which two pictures are verified."""
SAME_SCENE = 0.7
"""Least similarity for neighbouring frames, a stereo pair, one place from nearly one point."""
SAME_PICTURE = 0.88
"""Likewise for one picture, relative to its similarity with itself, which empty areas lower."""
MIN_CONTRAST = 1.5
"""Least standard deviation, in 255ths, of a thumbnail. Flatter pictures are compared by pixels only."""
MOST_CANDIDATES = 8
"""Verified for each picture, because frames of a film match by the thousand."""
BLOCK = 512
BORDER_PX = 3
"""Cut off a thumbnail to compare it with pictures that have lost about as much."""
FINE_PX, LIGHT_PX = 1.5, 8.0
"""Standard deviations: details are coarser than noise and finer than the brightness of areas."""
WINDOW_PX = 3.0
"""Standard deviation of the window in which details are compared."""
MAX_SHIFT_PX = 2
NOISE = 1.0
"""Standard deviation, in 255ths, of details that carry no information."""

TURNS = (
    "",
    "mirrored left to right",
    "mirrored top to bottom",
    "turned by 180 degrees",
    "transposed",
    "turned right by 90 degrees",
    "turned left by 90 degrees",
    "transposed and turned by 180 degrees",
)
"""Orientation by number: transposed (4), then mirrored top to bottom (2), then left to right (1)."""

Kind = Literal["same pixels", "same picture", "same scene"]
_Both = tuple[np.ndarray, np.ndarray]


class Fingerprint(NamedTuple):
    digest: bytes
    """Hash of the pixels and their shape."""
    thumbnail: np.ndarray
    """float16 (64,64), grey, 0..255."""


class Match(NamedTuple):
    """Two pictures by their positions in the lists that were compared."""

    first: int
    second: int
    kind: Kind
    similarity: float
    """Relative to that of the picture with itself, at most 1; 1 for the same pixels."""
    turn: str
    """One of TURNS: the change that makes the second one fit the first."""


def fingerprint(pixels: np.ndarray) -> Fingerprint:
    """Fingerprint of uint8 (H,W,3) RGB."""
    digest = hashlib.blake2b(str(pixels.shape).encode() + pixels.tobytes(), digest_size=16)
    small = Image.fromarray(pixels).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR)
    return Fingerprint(digest.digest(), (np.asarray(small) @ np.array([0.299, 0.587, 0.114])).astype(np.float16))


def descriptors(prints: Sequence[Fingerprint], border_px: int = 0) -> np.ndarray:
    """Return float32 (num, 8, 8) of norm 1; zero, which matches nothing, for pictures without contrast."""
    thumbnails = np.stack([p.thumbnail for p in prints]).astype(np.float32)
    inner = slice(border_px, THUMBNAIL_PX - border_px)
    coefficients = np.asarray(dctn(thumbnails[:, inner, inner], axes=(1, 2), norm="ortho"))
    weighted = coefficients[:, :NUM_FREQUENCIES, :NUM_FREQUENCIES] * np.hypot(
        *np.mgrid[:NUM_FREQUENCIES, :NUM_FREQUENCIES]
    ).astype(np.float32)
    norms = np.linalg.norm(weighted, axis=(1, 2))
    is_flat = thumbnails.std(axis=(1, 2)) < MIN_CONTRAST
    return weighted * np.where(is_flat, 0, 1 / np.maximum(norms, 1e-6))[:, None, None]


def find_matches(
    first: Sequence[Fingerprint],
    second: Sequence[Fingerprint] | None = None,
    on_compared: Callable[[int], object] = lambda num: None,
) -> list[Match]:
    """Return the matching pairs of pictures of `first` and `second`; without `second`, pairs within `first`, each once.

    Of pictures with the same pixels one is compared, and each picture with at most eight candidates: use `groups` to
    join them. `on_compared` is called with the number of pictures of `second` compared since the last call.
    """
    others = first if second is None else second
    matches = _same_pixels(first, second)
    rows, columns = _first_of_each(first), _first_of_each(others)
    if not rows or not columns:
        return matches
    done = {(match.first, match.second) for match in matches}
    table = _both_descriptors([first[i] for i in rows])
    for start in range(0, len(columns), BLOCK):
        block = columns[start : start + BLOCK]
        for row, column in _candidates(table, [others[j] for j in block], start if second is None else None):
            i, j = rows[row], block[column]
            if second is None and i > j:
                i, j = j, i
            if (i, j) not in done:
                done.add((i, j))
                matches += _verified(i, j, first[i], others[j])
        on_compared(len(block))
    return sorted(matches)


def groups(num: int, matches: Sequence[Match]) -> np.ndarray:
    """Return a group number for each of `num` pictures of one list; matches join groups, also indirectly."""
    rows, columns = [match.first for match in matches], [match.second for match in matches]
    joined = coo_matrix((np.ones(len(matches)), (rows, columns)), shape=(num, num))
    return connected_components(joined, directed=False)[1]


def is_plain(picture: Fingerprint) -> bool:
    """Return whether a picture is too empty to be recognised after a change."""
    return SAME_PICTURE * own_similarity(picture.thumbnail.astype(np.float64)) < SAME_SCENE


def aligned_similarity(fixed: np.ndarray, moving: np.ndarray) -> float:
    """Return the mean correlation, up to 1, of the details of two (N,N) pictures 0..255 in small windows.

    At the shift of at most 2 px along each axis at which the whole pictures correlate best. Windows without details
    count as 0, so one edge in an empty sky does not make two pictures similar; brightness and contrast do not matter.
    """
    still, details = _details(fixed), _details(moving)
    middle = slice(MAX_SHIFT_PX, len(fixed) - MAX_SHIFT_PX)
    one, shifts = _normalised(still[middle, middle]), range(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1)
    others = [np.roll(details, (down, right), (0, 1))[middle, middle] for down in shifts for right in shifts]
    best = max(others, key=lambda other: float((one * _normalised(other)).sum()))
    return _windowed_correlation(still[middle, middle], best)


def own_similarity(picture: np.ndarray) -> float:
    """Return `aligned_similarity` of a picture with itself: near 1, or less with large empty areas."""
    return aligned_similarity(picture, picture)


def _details(picture: np.ndarray) -> np.ndarray:
    return gaussian_filter(picture, FINE_PX) - gaussian_filter(picture, LIGHT_PX)


def _normalised(picture: np.ndarray) -> np.ndarray:
    return (picture - picture.mean()) / max(float(picture.std()), 1e-6)


def _windowed_correlation(first: np.ndarray, second: np.ndarray) -> float:
    noise = (NOISE / max(float(min(first.std(), second.std())), 1e-6)) ** 2
    a, b = _normalised(first), _normalised(second)
    mean = [gaussian_filter(product, WINDOW_PX) for product in (a * b, a * a, b * b)]
    return float((mean[0] / np.sqrt((mean[1] + noise) * (mean[2] + noise))).mean())


def _same_pixels(first: Sequence[Fingerprint], second: Sequence[Fingerprint] | None) -> list[Match]:
    earliest: dict[bytes, int] = {}
    for i, one in enumerate(first):
        earliest.setdefault(one.digest, i)
    others = enumerate(first if second is None else second)
    found = [(earliest[other.digest], j) for j, other in others if other.digest in earliest]
    return [Match(i, j, "same pixels", 1.0, TURNS[0]) for i, j in found if second is not None or i != j]


def _first_of_each(prints: Sequence[Fingerprint]) -> list[int]:
    return list({p.digest: i for i, p in reversed(list(enumerate(prints)))}.values())[::-1]


def _both_descriptors(prints: Sequence[Fingerprint]) -> _Both:
    """Return the descriptors of whole pictures and of pictures without their border, which the others may have lost."""
    return descriptors(prints), descriptors(prints, BORDER_PX)


def _ways(ours: _Both, theirs: _Both) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    return (ours[0], theirs[0]), (ours[1], theirs[0]), (ours[0], theirs[1])


def _candidates(table: _Both, block: Sequence[Fingerprint], start: int | None) -> list[tuple[int, int]]:
    """Return (position in the table, in the block) of candidates; `start`: the block's place in the table, if in it."""
    alike = np.full((len(block), len(table[0])), -1, np.float32)
    for ours, theirs in _ways(_both_descriptors(block), table):
        flat = theirs.reshape(len(theirs), -1).T
        for turn in range(len(TURNS)):
            np.maximum(alike, _turned(ours, turn).reshape(len(ours), -1) @ flat, out=alike)
    if start is not None:
        alike[np.arange(len(block)), start + np.arange(len(block))] = -1
    found = []
    for column in np.flatnonzero(alike.max(axis=1) >= MIN_CANDIDATE):
        best = np.argsort(-alike[column])[:MOST_CANDIDATES]
        found += [(int(row), int(column)) for row in best if alike[column, row] >= MIN_CANDIDATE]
    return found


def _turned(coefficients: np.ndarray, turn: int) -> np.ndarray:
    """Return the cosine coefficients (...,K,K) of turned pictures: mirroring negates the odd ones."""
    signs = (-1.0) ** np.arange(coefficients.shape[-1], dtype=np.float32)
    laid = coefficients.swapaxes(-1, -2) if turn & 4 else coefficients
    laid = laid * signs[:, None] if turn & 2 else laid
    return laid * signs if turn & 1 else laid


def _turned_picture(picture: np.ndarray, turn: int) -> np.ndarray:
    picture = picture.T if turn & 4 else picture
    picture = picture[::-1] if turn & 2 else picture
    return picture[:, ::-1] if turn & 1 else picture


def _verified(i: int, j: int, first: Fingerprint, second: Fingerprint) -> list[Match]:
    """Return the match of two candidates, if any, at the orientation and the border at which they fit best."""
    ways = _ways(_both_descriptors([first]), _both_descriptors([second]))
    agreement, turn = max((float((a * _turned(b, turn)).sum()), turn) for a, b in ways for turn in range(len(TURNS)))
    moving = _turned_picture(second.thumbnail, turn)
    borders = [(lost, 0) for lost in range(BORDER_PX + 1)] + [(0, lost) for lost in range(1, BORDER_PX + 1)]
    similarity, own = max(
        (aligned_similarity(fixed, _without_border(moving, other)), own_similarity(fixed))
        for one, other in borders
        for fixed in [_without_border(first.thumbnail, one)]
    )
    if similarity < SAME_SCENE:
        return []
    share = min(similarity / own, agreement, 1.0)
    return [Match(i, j, "same picture" if share >= SAME_PICTURE else "same scene", share, TURNS[turn])]


def _without_border(thumbnail: np.ndarray, border_px: int) -> np.ndarray:
    """Cut the border off and resize the rest to the full size; float64."""
    inner = slice(border_px, THUMBNAIL_PX - border_px)
    rest = Image.fromarray(np.ascontiguousarray(thumbnail[inner, inner], np.float32))
    return np.asarray(rest.resize(thumbnail.shape, Image.Resampling.BILINEAR), np.float64)
