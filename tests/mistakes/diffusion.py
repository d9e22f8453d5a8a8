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
        "_stratified(total, 2 * num_timesteps, stream)",
        "_stratified(total, num_timesteps, stream)",
        "tests/diffusion/test_draws.py::test_late_timesteps_are_half_the_last_one",
    ),
    (
        "restore_diff/diffusion/gaussian.py",
        'generator(seed, "noise", position, device=like.device)',
        'generator(seed, "noise", device=like.device)',
        "tests/diffusion/test_draws.py::test_noise_is_standard_normal_and_unrelated_between_samples",
    ),
    (
        "restore_diff/diffusion/ladder.py",
        "[round(num_timesteps * left / num_steps) - 1 for left in",
        "[round(num_timesteps * left / num_steps) for left in",
        "tests/diffusion/test_samplers.py::test_a_ladder_has_exactly_the_steps_asked_for_all_different_and_falling",
    ),
    (
        "restore_diff/diffusion/ladder.py",
        "Level(t=-1, signal=1.0, noise=0.0)",
        "Level(t=-1, signal=0.99995, noise=0.01)",
        "tests/diffusion/test_samplers.py::test_the_last_step_leaves_no_noise_and_draws_none",
    ),
    (
        "restore_diff/diffusion/ladder.py",
        "if t <= config.stop_t",
        "if t < config.stop_t - 50",
        "tests/diffusion/test_solvers.py::test_stopping_early_gives_the_clean_estimate_of_the_level_where_it_stops",
    ),
    (
        "restore_diff/diffusion/ladder.py",
        "min(nearest[place], nearest[place - 1] - 1)",
        "nearest[place]",
        "tests/diffusion/test_solvers.py"
        "::test_an_uneven_ladder_has_exactly_the_steps_asked_for_all_different_and_falling",
    ),
    (
        "restore_diff/diffusion/denoiser.py",
        "Estimate(clean, implied_epsilon(clean, x_t, *levels))",
        "Estimate(clean, implied_epsilon(3 * clean, x_t, *levels))",
        "tests/diffusion/test_samplers.py::test_clipping_bounds_the_clean_image_and_derives_the_noise_anew",
    ),
    (
        "restore_diff/diffusion/denoiser.py",
        "level.signal * degraded.to(x_t.dtype) + level.noise * x_t",
        "degraded.to(x_t.dtype) + level.noise * x_t",
        "tests/diffusion/test_solvers.py::test_starting_from_the_degraded_image_noises_it_to_the_first_level",
    ),
    (
        "restore_diff/diffusion/samplers.py",
        "math.sqrt(max(following.noise**2 - fresh_variance, 0.0))",
        "following.noise",
        "tests/diffusion/test_samplers.py::test_eta_1_takes_the_ancestral_step_of_ddpm",
    ),
    (
        "restore_diff/diffusion/samplers.py",
        "slope * (epsilon + later) / 2",
        "slope * later",
        "tests/diffusion/test_solvers.py::test_heun_equals_that_of_diffusers",
    ),
    (
        "restore_diff/diffusion/multistep.py",
        "(2 * _ratio(before[0], level, following))",
        "2",
        "tests/diffusion/test_solvers.py::test_multistep_solvers_equal_those_of_diffusers_on_any_ladder",
    ),
    (
        "restore_diff/diffusion/multistep.py",
        "x_t = _corrected(left, past, level, clean)",
        "pass",
        "tests/diffusion/test_solvers.py::test_a_solver_converges_at_its_order",
    ),
]
