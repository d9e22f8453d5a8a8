"""Deliberate mistakes in U-Net, tiles, Restorer: (file, text that occurs once, mistake, test that fails by it)."""

MUTATIONS = [
    (
        "restore_diff/models/unet.py",
        "torch.cat([degraded, x_t], dim=1)",
        "torch.cat([x_t, degraded], dim=1)",
        "tests/models/test_unet.py::test_known_weights_give_known_values",
    ),
    (
        "restore_diff/models/layers.py",
        "F.pad(features, (0, 1, 0, 1))",
        "F.pad(features, (1, 0, 1, 0))",
        "tests/models/test_unet.py::test_known_weights_give_known_values",
    ),
    (
        "restore_diff/models/layers.py",
        "torch.cat([angles.sin(), angles.cos()], dim=1)",
        "torch.cat([angles.cos(), angles.sin()], dim=1)",
        "tests/models/test_unet.py::test_the_sinusoids_are_those_of_ho_et_al",
    ),
    (
        "restore_diff/models/layers.py",
        "self.conv2 = zeroed(Convolution3x3(out_channels, out_channels))",
        "self.conv2 = Convolution3x3(out_channels, out_channels)",
        "tests/models/test_unet.py::test_an_untrained_network_puts_out_zero_and_every_branch_adds_nothing",
    ),
    (
        "restore_diff/restoration/grid.py",
        "(length - tile) / (tile - overlap)) if",
        "(length - tile) / tile) if",
        "tests/restoration/test_tiling.py::test_tiles_start_and_end_with_the_axis_evenly_spaced",
    ),
    (
        "restore_diff/restoration/grid.py",
        "w / total[s : s + tile]",
        "w / total.mean()",
        "tests/restoration/test_tiling.py::test_the_weights_are_positive_and_sum_to_one_at_every_pixel",
    ),
    (
        "restore_diff/restoration/tiling.py",
        '"(b rows columns) c h w -> columns b rows c h w"',
        '"(rows columns b) c h w -> columns b rows c h w"',
        "tests/restoration/test_tiling.py::test_a_constant_stays_constant_and_each_image_its_own",
    ),
    (
        "restore_diff/restoration/tiling.py",
        "t.repeat_interleave(len(tiles) // len(t))",
        "t.repeat(len(tiles) // len(t))",
        "tests/restoration/test_tiling.py::test_a_constant_stays_constant_and_each_image_its_own",
    ),
    (
        "restore_diff/restoration/padding.py",
        "period = max(2 * (old - 1), 1)",
        "period = 2 * old",
        "tests/restoration/test_padding.py::test_padding_is_torchs_reflection_where_torch_can",
    ),
    (
        "restore_diff/restoration/noise.py",
        "else (name, draw)",
        "else (name,)",
        "tests/restoration/test_restorer.py::test_every_draw_is_its_own",
    ),
    (
        "restore_diff/restoration/restorer.py",
        "pad_to(to_model_range(degraded.to(self.device, torch.float32)), *padded)",
        "pad_to(degraded.to(self.device, torch.float32), *padded)",
        "tests/restoration/test_restorer.py::test_the_predictor_sees_the_model_range",
    ),
    (
        "restore_diff/restoration/restorer.py",
        "enabled=dtype != torch.float32",
        "enabled=False",
        "tests/restoration/test_restorer.py::test_lower_precision_reaches_the_network_and_not_the_state",
    ),
    (
        "restore_diff/restoration/grid.py",
        "slack = num_tiles * tile - length",
        "slack = num_tiles * tile - length + 1",
        "tests/restoration/test_tiling.py::test_shifted_tiles_own_every_pixel_exactly_once",
    ),
    (
        "restore_diff/restoration/tiling.py",
        "        self._num_calls += 1\n",
        "",
        "tests/restoration/test_tiling.py::test_the_borders_of_shifted_tiles_move_from_step_to_step",
    ),
    (
        "restore_diff/restoration/restorer.py",
        "return self._sample_once(tiling, precision",
        "return self._sample_once(self.tiling, precision",
        "tests/restoration/test_memory_and_samples.py"
        "::test_out_of_memory_starts_the_image_anew_in_smaller_tiles_and_says_so",
    ),
    (
        "restore_diff/restoration/restorer.py",
        "            tiling = smaller\n",
        "            tiling = self.tiling = smaller\n",
        "tests/restoration/test_memory_and_samples.py::test_the_next_image_is_tried_as_it_was_asked_for",
    ),
    (
        "restore_diff/restoration/restorer.py",
        "change.square_().mul_(further / (further + 1))",
        "change.square_()",
        "tests/restoration/test_memory_and_samples.py::test_the_mean_and_spread_of_samples_are_those_of_single_samples",
    ),
    (
        "restore_diff/restoration/restorer.py",
        "self._sample_finite(degraded.flip(-1), of_sample).flip(-1)",
        "self._sample_finite(degraded.flip(-1), of_sample)",
        "tests/restoration/test_memory_and_samples.py::test_every_other_sample_may_see_the_image_mirrored",
    ),
    (
        "restore_diff/restoration/restorer.py",
        "noise._replace(seed=noise.seed + further)",
        "noise",
        "tests/restoration/test_memory_and_samples.py::test_the_mean_and_spread_of_samples_are_those_of_single_samples",
    ),
    (
        "restore_diff/restoration/noise.py",
        "(name, draw, start) if start else (name, draw)",
        "(name, draw)",
        "tests/restoration/test_memory_and_samples.py"
        "::test_noise_is_standard_normal_and_a_part_of_it_is_that_part_of_the_whole",
    ),
    (
        "restore_diff/restoration/restorer.py",
        "rows=(start, start + len(weight))",
        "rows=(0, len(weight))",
        "tests/restoration/test_memory_and_samples.py"
        "::test_in_bands_every_pixel_has_the_noise_that_it_has_in_the_whole",
    ),
]
