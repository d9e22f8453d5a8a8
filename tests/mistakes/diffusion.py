"""Deliberate mistakes in restore_diff/diffusion: (file, text that occurs once, mistake, test that fails by it)."""

MUTATIONS = [
    (
        "restore_diff/diffusion/schedule.py",
        "scale = 1000 / config.num_timesteps",
        "scale = 500 / config.num_timesteps",
        "tests/diffusion/test_schedule.py::test_linear_has_the_published_levels",
    ),
    (
        "restore_diff/diffusion/schedule.py",
        "self._snr = self.alpha_bar / (1 - self.alpha_bar)",
        "self._snr = self.alpha_bar**2 / (1 - self.alpha_bar)",
        "tests/diffusion/test_schedule.py::test_levels_in_float32_are_those_of_float64_rounded_once",
    ),
    (
        "restore_diff/diffusion/prediction.py",
        "Estimate(signal * x_t - noise * output, signal * output + noise * x_t)",
        "Estimate(signal * x_t + noise * output, signal * output + noise * x_t)",
        "tests/diffusion/test_prediction.py::test_the_output_that_means_the_truth_is_read_as_the_truth",
    ),
    (
        "restore_diff/diffusion/prediction.py",
        "return signal / noise * (_clean(kind, output, degraded) - clean)",
        "return _clean(kind, output, degraded) - clean",
        "tests/diffusion/test_gaussian.py::test_the_loss_is_the_weighted_squared_error_of_epsilon",
    ),
    (
        "restore_diff/diffusion/prediction.py",
        "return output.to(state.dtype)",
        "return output",
        "tests/diffusion/test_samplers.py::test_a_predictor_of_lower_precision_keeps_a_float32_state",
    ),
    (
        "restore_diff/diffusion/gaussian.py",
        "return snr.clamp(self.config.snr_min, self.config.snr_max) / snr",
        "return snr.clamp(self.config.snr_min, self.config.snr_max)",
        "tests/diffusion/test_gaussian.py::test_clamped_weights_bound_that_of_the_clean_image",
    ),
    (
        "restore_diff/diffusion/gaussian.py",
        'stream = generator(seed, "timesteps", step)',
        'stream = generator(seed, "timesteps")',
        "tests/diffusion/test_draws.py::test_the_timesteps_of_a_step_depend_on_the_seed_and_the_step_alone",
    ),
    (
        "restore_diff/diffusion/gaussian.py",
        "torch.stack([t, num_timesteps - 1 - t], dim=1)",
        "torch.stack([t, num_timesteps - t], dim=1)",
        "tests/diffusion/test_draws.py::test_antithetic_pairs_sum_to_the_last_timestep",
    ),
    (
        "restore_diff/diffusion/gaussian.py",
        'generator(seed, "noise", position, device=like.device)',
        'generator(seed, "noise", device=like.device)',
        "tests/diffusion/test_draws.py::test_noise_is_standard_normal_and_unrelated_between_samples",
    ),
    (
        "restore_diff/diffusion/samplers.py",
        "[round(num_timesteps * left / num_steps) - 1 for left in",
        "[round(num_timesteps * left / num_steps) for left in",
        "tests/diffusion/test_samplers.py::test_a_ladder_has_exactly_the_steps_asked_for_all_different_and_falling",
    ),
    (
        "restore_diff/diffusion/samplers.py",
        "levels = [*schedule.alpha_bar[ladder].tolist(), 1.0]",
        "levels = [*schedule.alpha_bar[ladder].tolist(), schedule.alpha_bar[0].item()]",
        "tests/diffusion/test_samplers.py::test_the_last_step_leaves_no_noise_and_draws_none",
    ),
    (
        "restore_diff/diffusion/samplers.py",
        "                epsilon = implied_epsilon(clean, x_t, step.signal, step.noise)\n",
        "",
        "tests/diffusion/test_samplers.py::test_clipping_bounds_the_clean_image_and_derives_the_noise_anew",
    ),
    (
        "restore_diff/diffusion/samplers.py",
        "math.sqrt(max(1 - next_alpha_bar - fresh_variance, 0.0))",
        "math.sqrt(1 - next_alpha_bar)",
        "tests/diffusion/test_samplers.py::test_eta_1_takes_the_ancestral_step_of_ddpm",
    ),
]
