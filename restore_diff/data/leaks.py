"""How alike two small grey pictures are once one of them is laid over the other: shifted and stretched a little."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

COARSE_PX, FINE_PX, LIGHT_PX = 2.5, 1.0, 8.0
"""Standard deviations: the details that pictures are aligned by, first and then, are finer than the light of areas."""
WINDOW_PX = 3.0
"""Standard deviation of the window in which pictures are compared."""
NOISE = 1.0
"""Standard deviation, in 255ths, of details that say nothing."""
NUM_STEPS = 12
MIN_OVERLAP = 0.6
"""Share of the picture that must be seen in both."""
MAX_STRETCH = 1.3


def aligned_similarity(fixed: np.ndarray, moving: np.ndarray, stretch: float = 1.0) -> float:
    """Mean correlation, up to 1, of the details of two (N,N) pictures 0..255 in small windows, after best alignment.

    The alignment, a stretch and a shift along each axis, is found by Gauss-Newton steps on the squared difference of
    the normalised details (Baker and Matthews, IJCV 2004, section 3.2), from coarse to fine, starting with `stretch`.
    A window without details adds nothing, so that one edge in an empty sky does not make two pictures alike; brightness
    and contrast do not matter. 0 where the pictures come apart or are flat.
    """
    parameters = np.array([stretch, stretch, 0.0, 0.0])  # stretch and shift (px) of rows and columns, from the middle
    for finest in (COARSE_PX, FINE_PX):
        still, details = _details(fixed, finest), _details(moving, finest)
        warped, seen = _warp(details, parameters)
        for _ in range(NUM_STEPS):
            if not _is_sensible(parameters, still, warped, seen):
                return 0.0
            step = _gauss_newton_step(_normalised(still, seen), _normalised(warped, seen), seen)
            parameters = parameters + step
            warped, seen = _warp(details, parameters)
            if np.abs(step * [len(fixed) / 2, len(fixed) / 2, 1, 1]).max() < 0.01:
                break
    return _windowed_correlation(still, warped, seen) if _is_sensible(parameters, still, warped, seen) else 0.0


def own_similarity(picture: np.ndarray) -> float:
    """What `aligned_similarity` gives for a picture and itself: near 1, or less for one with large empty areas."""
    details = _details(picture, FINE_PX)
    return _windowed_correlation(details, details, np.ones(details.shape, bool))


def _details(picture: np.ndarray, finest: float) -> np.ndarray:
    """The picture without noise and traces of a codec, and without the light and dark of areas, which scenes share."""
    return gaussian_filter(picture, finest) - gaussian_filter(picture, LIGHT_PX)


def _warp(picture: np.ndarray, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture as the parameters lay it, and where it is seen."""
    middle = (np.array(picture.shape) - 1) / 2
    offset = middle + parameters[2:] - parameters[:2] * middle
    warped = affine_transform(picture, parameters[:2], offset, order=1, cval=np.nan)  # type: ignore[arg-type]
    return np.nan_to_num(warped), np.isfinite(warped)


def _is_sensible(parameters: np.ndarray, still: np.ndarray, warped: np.ndarray, seen: np.ndarray) -> bool:
    stretched = max(parameters[:2].max(), 1 / parameters[:2].clip(1e-3).min())
    if stretched > MAX_STRETCH or seen.mean() < MIN_OVERLAP:
        return False
    return bool(min(still[seen].std(), warped[seen].std()) > NOISE / 10)


def _normalised(picture: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 where seen, 0 elsewhere."""
    values = picture[seen]
    return np.where(seen, (picture - values.mean()) / max(float(values.std()), 1e-6), 0)


def _gauss_newton_step(still: np.ndarray, warped: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The change of the parameters that lessens the squared difference most, were the pictures linear."""
    rows, columns = np.gradient(warped)
    row, column = np.argwhere(seen).T - (len(still) - 1) / 2
    slopes = np.stack([rows[seen] * row, columns[seen] * column, rows[seen], columns[seen]])
    normal = slopes @ slopes.T
    damping = 1e-6 * np.trace(normal) * np.eye(4)  # a picture of stripes says nothing of the shift along them
    return np.linalg.solve(normal + damping, slopes @ (still - warped)[seen])


def _windowed_correlation(still: np.ndarray, warped: np.ndarray, seen: np.ndarray) -> float:
    noise = (NOISE / max(min(still[seen].std(), warped[seen].std()), 1e-6)) ** 2
    a, b = _normalised(still, seen), _normalised(warped, seen)
    mean = [gaussian_filter(product, WINDOW_PX) for product in (a * b, a * a, b * b)]
    return float((mean[0] / np.sqrt((mean[1] + noise) * (mean[2] + noise)))[seen].mean())


# Pictures that come twice, also cropped a little, mirrored, turned, resized, compressed or brightened.
#
# A picture becomes a thumbnail of 64x64, whatever its shape, and that a descriptor: its 8x8 lowest cosine coefficients,
# each times its frequency, so that the light and dark of large areas, which unrelated photographs share, does not decide.
# Mirroring and turning only change signs and the order of coefficients, so all eight ways to lay a picture are compared
# by one matrix product each. Pairs whose descriptors are alike are verified on the thumbnails, laid over each other.
#
# The thresholds lie between what docs/doctor.md measures on photographs: changed copies have descriptors of at least 0.94
# and a similarity of at least 0.84, which is 0.92 of their own; unrelated ones have at most 0.72 and 0.66.

THUMBNAIL_PX = 64
NUM_FREQUENCIES = 8
MIN_CANDIDATE = 0.75
"""Descriptors that are less alike are not looked at again."""
SAME_SCENE = 0.7
"""Similarity after alignment, from here on: neighbouring frames, a stereo pair, one place from nearly one point."""
SAME_PICTURE = 0.9
"""Likewise, as a share of the picture's similarity with itself, which empty areas lower."""
MIN_CONTRAST = 1.5
"""Standard deviation, in 255ths, of a thumbnail that says anything. Flatter pictures are compared by pixels only."""
MOST_CANDIDATES = 8
"""Verified for each picture; frames of a film would be alike by the thousand."""
BLOCK = 512
BORDER_PX = 3
"""Of a thumbnail, cut off to compare with pictures that have lost about as much."""

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
"""How a picture lies when it is transposed (4), then mirrored top to bottom (2), then left to right (1)."""

Kind = Literal["same pixels", "same picture", "same scene"]


class Fingerprint(NamedTuple):
    digest: bytes
    """Of the pixels and their shape."""
    thumbnail: np.ndarray
    """float16 (64,64), grey, 0..255."""


class Match(NamedTuple):
    """Two pictures by their positions in the lists that were compared."""

    first: int
    second: int
    kind: Kind
    similarity: float
    """After alignment, as a share of what the picture has with itself; 1 for the same pixels."""
    turn: str
    """One of TURNS: how the second one has to be laid to fit the first."""


def fingerprint(pixels: np.ndarray) -> Fingerprint:
    """Of uint8 (H,W,3) RGB."""
    digest = hashlib.blake2b(str(pixels.shape).encode() + pixels.tobytes(), digest_size=16)
    small = Image.fromarray(pixels).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR)
    return Fingerprint(digest.digest(), (np.asarray(small) @ np.array([0.299, 0.587, 0.114])).astype(np.float16))


def descriptors(prints: Sequence[Fingerprint], border_px: int = 0) -> np.ndarray:
    """float32 (num, 8, 8) of norm 1; all zero, and so like nothing, for pictures without contrast."""
    thumbnails = np.stack([p.thumbnail for p in prints]).astype(np.float32)
    inner = slice(border_px, THUMBNAIL_PX - border_px)
    coefficients = np.asarray(dctn(thumbnails[:, inner, inner], axes=(1, 2), norm="ortho"))
    weighted = coefficients[:, :NUM_FREQUENCIES, :NUM_FREQUENCIES] * np.hypot(
        *np.mgrid[:NUM_FREQUENCIES, :NUM_FREQUENCIES]
    ).astype(np.float32)
    norms = np.linalg.norm(weighted, axis=(1, 2))
    says_nothing = thumbnails.std(axis=(1, 2)) < MIN_CONTRAST
    return weighted * np.where(says_nothing, 0, 1 / np.maximum(norms, 1e-6))[:, None, None]


def find_matches(
    first: Sequence[Fingerprint],
    second: Sequence[Fingerprint] | None = None,
    on_compared: Callable[[int], object] = lambda num: None,
) -> list[Match]:
    """Pairs of a picture of `first` and one of `second` that match; without `second`, pairs within `first`, each once.

    Of pictures with the same pixels one is compared for all, and each picture with its eight likeliest candidates at
    most: to know what belongs together, take `groups`. `on_compared` hears how many pictures of `second` were done.
    """
    others = first if second is None else second
    matches = _same_pixels(first, second)
    rows, columns = _first_of_each(first), _first_of_each(others)
    if not rows or not columns:
        return matches
    done = {(match.first, match.second) for match in matches}
    table = _Descriptors.of([first[i] for i in rows])
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
    """A group's number for each of `num` pictures of one list: those that matches join, directly or not."""
    rows, columns = [match.first for match in matches], [match.second for match in matches]
    joined = coo_matrix((np.ones(len(matches)), (rows, columns)), shape=(num, num))
    return connected_components(joined, directed=False)[1]


def is_plain(picture: Fingerprint) -> bool:
    """Whether it is too empty to be known again once it is changed."""
    return SAME_PICTURE * own_similarity(picture.thumbnail.astype(np.float64)) < SAME_SCENE


def _same_pixels(first: Sequence[Fingerprint], second: Sequence[Fingerprint] | None) -> list[Match]:
    seen: dict[bytes, int] = {}
    matches: list[Match] = []
    for i, one in enumerate(first):
        if seen.setdefault(one.digest, i) != i and second is None:
            matches.append(Match(seen[one.digest], i, "same pixels", 1.0, TURNS[0]))
    for j, other in enumerate(second or ()):
        if other.digest in seen:
            matches.append(Match(seen[other.digest], j, "same pixels", 1.0, TURNS[0]))
    return matches


def _first_of_each(prints: Sequence[Fingerprint]) -> list[int]:
    return list({p.digest: i for i, p in reversed(list(enumerate(prints)))}.values())[::-1]


class _Descriptors(NamedTuple):
    """Of whole pictures and of pictures without their border, in case the others have lost it."""

    whole: np.ndarray
    inner: np.ndarray

    @classmethod
    def of(cls, prints: Sequence[Fingerprint]) -> "_Descriptors":
        return cls(descriptors(prints), descriptors(prints, BORDER_PX))


def _candidates(table: _Descriptors, block: Sequence[Fingerprint], start: int | None) -> list[tuple[int, int]]:
    """(position in the table, in the block) of pictures with descriptors alike; `start`: the block's place in it."""
    whole, inner = _Descriptors.of(block)
    alike = np.full((len(block), len(table.whole)), -1, np.float32)
    for ours, theirs in ((whole, table.whole), (whole, table.inner), (inner, table.whole)):
        flat = theirs.reshape(len(theirs), -1).T
        for turn in range(len(TURNS)):
            np.maximum(alike, _laid(ours, turn).reshape(len(ours), -1) @ flat, out=alike)
    if start is not None:
        alike[np.arange(len(block)), start + np.arange(len(block))] = -1
    found = []
    for column in np.flatnonzero(alike.max(axis=1) >= MIN_CANDIDATE):
        best = np.argsort(-alike[column])[:MOST_CANDIDATES]
        found += [(int(row), int(column)) for row in best if alike[column, row] >= MIN_CANDIDATE]
    return found


def _laid(coefficients: np.ndarray, turn: int) -> np.ndarray:
    """The cosine coefficients (...,K,K) of pictures laid as TURNS says: to mirror is to negate the odd ones."""
    signs = (-1.0) ** np.arange(coefficients.shape[-1], dtype=np.float32)
    laid = coefficients.swapaxes(-1, -2) if turn & 4 else coefficients
    laid = laid * signs[:, None] if turn & 2 else laid
    return laid * signs if turn & 1 else laid


def _laid_picture(picture: np.ndarray, turn: int) -> np.ndarray:
    laid = picture.T if turn & 4 else picture
    laid = laid[::-1] if turn & 2 else laid
    return laid[:, ::-1] if turn & 1 else laid


def _verified(i: int, j: int, first: Fingerprint, second: Fingerprint) -> list[Match]:
    """The match of two candidates, if it is one, laid as their descriptors agree best."""
    ours, theirs = _Descriptors.of([first]), _Descriptors.of([second])
    inner_px = THUMBNAIL_PX - 2 * BORDER_PX
    ways = ((ours.whole, theirs.whole, 1.0), (ours.inner, theirs.whole, THUMBNAIL_PX / inner_px))
    ways += ((ours.whole, theirs.inner, inner_px / THUMBNAIL_PX),)
    _, turn, stretch = max(
        (float((a * _laid(b, turn)).sum()), turn, stretch) for a, b, stretch in ways for turn in range(len(TURNS))
    )
    moving = _laid_picture(second.thumbnail.astype(np.float64), turn)
    similarity = aligned_similarity(first.thumbnail.astype(np.float64), moving, stretch)
    if similarity < SAME_SCENE:
        return []
    share = similarity / own_similarity(first.thumbnail.astype(np.float64))
    return [Match(i, j, "same picture" if share >= SAME_PICTURE else "same scene", min(share, 1.0), TURNS[turn])]
