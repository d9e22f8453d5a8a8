"""Meaning of a network's output: epsilon, the clean image, velocity, or a residual to the degraded image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from torch import Tensor

from restore_diff.registry import choose
from restore_diff.tensors import Images, Timesteps

Predictor: TypeAlias = Callable[[Images, Timesteps, Images | None], Images]
"""(x_t, t, degraded) -> the raw output of a network, in the shape of x_t."""

Coefficient: TypeAlias = Tensor | float
"""Signal or noise of x_t = signal * clean + noise * epsilon: a number, or (batch, 1, .., 1)."""


class Estimate(NamedTuple):
    """Estimated parts of x_t: x_t = signal * clean + noise * epsilon, exactly."""

    clean: Images
    epsilon: Images


@dataclass(frozen=True)
class Prediction:
    """How to read one kind of output. Arguments: output, x_t, signal, noise, degraded (None without a condition)."""

    clean: Callable[[Images, Images, Coefficient, Coefficient, Images | None], Images]
    epsilon: Callable[[Images, Images, Coefficient, Coefficient, Images | None], Images] | None = None
    """None: what the clean image implies."""
    error: Callable[[Images, Images, Images, Coefficient, Coefficient], Images] | None = None
    """(output, clean, epsilon, signal, noise) -> epsilon's error; None: what the error of the clean image implies."""


def _residual(output: Images, x_t: Images, signal: Coefficient, noise: Coefficient, degraded: Images | None) -> Images:
    if degraded is None:
        raise ValueError("prediction 'residual' is added to the degraded image, but degraded is None")
    return degraded + output


PREDICTIONS: dict[str, Prediction] = {
    "epsilon": Prediction(
        clean=lambda output, x_t, signal, noise, degraded: (x_t - noise * output) / signal,
        epsilon=lambda output, x_t, signal, noise, degraded: output,
        error=lambda output, clean, epsilon, signal, noise: epsilon - output,
    ),
    "velocity": Prediction(  # signal * epsilon - noise * clean, Salimans and Ho (2022)
        clean=lambda output, x_t, signal, noise, degraded: signal * x_t - noise * output,
        epsilon=lambda output, x_t, signal, noise, degraded: signal * output + noise * x_t,
        error=lambda output, clean, epsilon, signal, noise: signal * (signal * epsilon - noise * clean - output),
    ),
    "clean": Prediction(clean=lambda output, x_t, signal, noise, degraded: output),
    "residual": Prediction(clean=_residual),
}
"""Kinds of output by name."""


def estimate(
    kind: str, output: Images, x_t: Images, signal: Coefficient, noise: Coefficient, degraded: Images | None
) -> Estimate:
    """Read the output of a network at x_t.

    Computed in the dtype of x_t, whatever that of the output. ValueError for an unknown kind, for an output of another
    shape than x_t, and for a residual without a degraded image.
    """
    read = choose(PREDICTIONS, kind, "diffusion.prediction")
    output = _like(x_t, output)
    clean = read.clean(output, x_t, signal, noise, degraded)
    if read.epsilon is None:
        return Estimate(clean, implied_epsilon(clean, x_t, signal, noise))
    return Estimate(clean, read.epsilon(output, x_t, signal, noise, degraded))


def implied_epsilon(clean: Images, x_t: Images, signal: Coefficient, noise: Coefficient) -> Images:
    """The noise of x_t when its clean image is `clean`."""
    return (x_t - signal * clean) / noise


def epsilon_error(
    kind: str,
    output: Images,
    clean: Images,
    epsilon: Images,
    signal: Coefficient,
    noise: Coefficient,
    degraded: Images | None,
) -> Images:
    """epsilon - estimate(...).epsilon for x_t made of `clean` and `epsilon`; dtype and errors as `estimate`.

    Taken from the error of the output itself, not by way of x_t: at the noisy end the two epsilons are nearly equal,
    and their difference in float32 loses digits (1 % of a good network's loss at the last t of the cosine schedule).
    """
    read = choose(PREDICTIONS, kind, "diffusion.prediction")
    output = _like(epsilon, output)
    if read.error is not None:
        return read.error(output, clean, epsilon, signal, noise)
    x_t = signal * clean + noise * epsilon
    return signal / noise * (read.clean(output, x_t, signal, noise, degraded) - clean)


def _like(state: Images, output: Images) -> Images:
    if output.shape != state.shape:  # Broadcasting would hide it.
        raise ValueError(
            f"a predictor must return the shape of x_t, {tuple(state.shape)}, this one returned {tuple(output.shape)}"
        )
    return output.to(state.dtype)
