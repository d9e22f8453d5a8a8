"""A kind of output of one's own: the negative residual, so that the network outputs the weather itself."""

from restore_diff import PREDICTIONS
from restore_diff.diffusion.prediction import Prediction

PREDICTIONS["weather"] = Prediction(clean=lambda output, x_t, signal, noise, degraded: degraded - output)
