"""Facts about what an output means."""

import pytest
import torch

from restore_diff.diffusion.prediction import epsilon_error, estimate, implied_epsilon


def images(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape or (2, 3, 4, 5), generator=torch.Generator().manual_seed(seed), dtype=dtype)


CLEAN, EPSILON, DEGRADED, OUTPUT = (images(seed) for seed in range(4))
SIGNAL, NOISE = 0.6, 0.8
X_T = SIGNAL * CLEAN + NOISE * EPSILON


def test_the_output_that_means_the_truth_is_read_as_the_truth(kind, output_of):
    output = output_of(kind, CLEAN, EPSILON, SIGNAL, NOISE, DEGRADED)
    clean, epsilon = estimate(kind, output, X_T, SIGNAL, NOISE, DEGRADED)
    torch.testing.assert_close(clean, CLEAN, rtol=0, atol=1e-14)
    torch.testing.assert_close(epsilon, EPSILON, rtol=0, atol=1e-14)


def test_any_output_is_read_as_a_clean_image_and_noise_that_make_up_x_t(kind):
    clean, epsilon = estimate(kind, OUTPUT, X_T, SIGNAL, NOISE, DEGRADED)
    torch.testing.assert_close(SIGNAL * clean + NOISE * epsilon, X_T, rtol=0, atol=1e-14)
    torch.testing.assert_close(implied_epsilon(clean, X_T, SIGNAL, NOISE), epsilon, rtol=0, atol=1e-14)


def test_the_error_of_epsilon_is_that_of_the_estimate(kind):
    error = epsilon_error(kind, OUTPUT, CLEAN, EPSILON, SIGNAL, NOISE, DEGRADED)
    read = estimate(kind, OUTPUT, X_T, SIGNAL, NOISE, DEGRADED)
    torch.testing.assert_close(error, EPSILON - read.epsilon, rtol=0, atol=1e-14)


def test_each_sample_of_a_batch_has_its_own_level(kind):
    signal = torch.tensor([0.6, 0.9], dtype=torch.float64).view(2, 1, 1, 1)
    noise = (1 - signal**2).sqrt()
    x_t = signal * CLEAN + noise * EPSILON
    batch = estimate(kind, OUTPUT, x_t, signal, noise, DEGRADED)
    single = estimate(kind, OUTPUT[1:], x_t[1:], signal[1].item(), noise[1].item(), DEGRADED[1:])
    torch.testing.assert_close(batch.clean[1:], single.clean, rtol=0, atol=1e-14)
    torch.testing.assert_close(batch.epsilon[1:], single.epsilon, rtol=0, atol=1e-14)


def test_the_estimate_has_the_precision_of_x_t_whatever_that_of_the_output(kind):
    coarse, x_t, degraded = OUTPUT.bfloat16(), X_T.float(), DEGRADED.float()
    read = estimate(kind, coarse, x_t, SIGNAL, NOISE, degraded)
    exact = estimate(kind, coarse.float(), x_t, SIGNAL, NOISE, degraded)
    assert read.clean.dtype == read.epsilon.dtype == torch.float32
    assert torch.equal(read.clean, exact.clean)
    assert torch.equal(read.epsilon, exact.epsilon)


def test_only_a_residual_needs_the_degraded_image(kind):
    if kind == "residual":
        with pytest.raises(ValueError, match="degraded is None"):
            estimate(kind, OUTPUT, X_T, SIGNAL, NOISE, None)
        with pytest.raises(ValueError, match="degraded is None"):
            epsilon_error(kind, OUTPUT, CLEAN, EPSILON, SIGNAL, NOISE, None)
    else:
        with_it = estimate(kind, OUTPUT, X_T, SIGNAL, NOISE, DEGRADED)
        assert torch.equal(estimate(kind, OUTPUT, X_T, SIGNAL, NOISE, None).clean, with_it.clean)


def test_an_output_of_another_shape_is_refused_not_broadcast(kind):
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 5\).*\(1, 3, 4, 5\)"):
        estimate(kind, OUTPUT[:1], X_T, SIGNAL, NOISE, DEGRADED)
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 5\).*\(2, 1, 4, 5\)"):
        epsilon_error(kind, OUTPUT[:, :1], CLEAN, EPSILON, SIGNAL, NOISE, DEGRADED)
