"""How alike two small grey pictures are once one of them is laid over the other: shifted and stretched a little."""

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

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
