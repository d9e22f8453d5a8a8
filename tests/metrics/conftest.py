import numpy as np
import pytest
from skimage import data


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A crop of a photograph with noise, blur and coloured streaks, and the crop itself: uint8, 90 x 121 x 3."""
    clean = data.astronaut()[40:130, 150:271]
    random = np.random.default_rng(0)
    degraded = clean + random.normal(0, 12, clean.shape)
    degraded[:, ::9, 0] += 70
    degraded[30:50] = (degraded[30:50] + degraded[31:51] + degraded[32:52]) / 3
    return np.clip(degraded, 0, 255).round().astype(np.uint8), clean
