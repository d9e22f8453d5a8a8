"""What the output of a network means: epsilon, the clean image, velocity, or a residual to the degraded image."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from torch import Tensor

from restore_diff.settings import Prediction
from restore_diff.tensors import Images, Timesteps

Predictor: TypeAlias = Callable[[Images, Timesteps, Images | None], Images]
"""(x_t, t, degraded) -> the raw output of a network, in the shape of x_t."""

Level: TypeAlias = Tensor | float
"""A coefficient of x_t = signal * clean + noise * epsilon: a number, or (batch, 1, .., 1)."""


class Estimate(NamedTuple):
    """What a prediction says that x_t consists of: x_t = signal * clean + noise * epsilon, exactly."""

    clean: Images
    epsilon: Images


def estimate(
    kind: Prediction, output: Images, x_t: Images, signal: Level, noise: Level, degraded: Images | None
) -> Estimate:
    """Read the output of a network at x_t; its velocity is signal * epsilon - noise * clean, Salimans and Ho (2022).

    Computed in the dtype of x_t, whatever that of the output. ValueError when the output has another shape than x_t,
    or a residual comes without a degraded image.
    """
    output = _like(x_t, output)
    match kind:
        case "epsilon":
            return Estimate((x_t - noise * output) / signal, output)
        case "velocity":
            return Estimate(signal * x_t - noise * output, signal * output + noise * x_t)
        case "clean" | "residual":
            clean = _clean(kind, output, degraded)
            return Estimate(clean, implied_epsilon(clean, x_t, signal, noise))


def implied_epsilon(clean: Images, x_t: Images, signal: Level, noise: Level) -> Images:
    """The noise that x_t must hold when its clean image is `clean`."""
    return (x_t - signal * clean) / noise


def epsilon_error(
    kind: Prediction,
    output: Images,
    clean: Images,
    epsilon: Images,
    signal: Level,
    noise: Level,
    degraded: Images | None,
) -> Images:
    """epsilon - estimate(...).epsilon for x_t made of `clean` and `epsilon`; dtype and errors as `estimate`.

    Taken from the error of the output itself, not by way of x_t: at the noisy end the two epsilons are nearly equal,
    and their difference in float32 loses digits (1 % of a good network's loss at the last t of the cosine schedule).
    """
    output = _like(epsilon, output)
    match kind:
        case "epsilon":
            return epsilon - output
        case "velocity":
            return signal * (signal * epsilon - noise * clean - output)
        case "clean" | "residual":
            return signal / noise * (_clean(kind, output, degraded) - clean)


def _clean(kind: Prediction, output: Images, degraded: Images | None) -> Images:
    if kind == "clean":
        return output
    if degraded is None:
        raise ValueError("prediction 'residual' is what to add to the degraded image, but degraded is None")
    return degraded + output


def _like(state: Images, output: Images) -> Images:
    if output.shape != state.shape:  # Broadcasting would hide it.
        raise ValueError(
            f"a predictor must return the shape of x_t, {tuple(state.shape)}, this one returned {tuple(output.shape)}"
        )
    return output.to(state.dtype)
