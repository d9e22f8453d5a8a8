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
        "self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))",
        "self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)",
        "tests/models/test_unet.py::test_an_untrained_network_puts_out_zero_and_every_branch_adds_nothing",
    ),
    (
        "restore_diff/restoration/tiling.py",
        "(length - tile) / (tile - overlap)) if",
        "(length - tile) / tile) if",
        "tests/restoration/test_tiling.py::test_tiles_start_and_end_with_the_axis_evenly_spaced",
    ),
    (
        "restore_diff/restoration/tiling.py",
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
        "tiles_t = t.repeat_interleave(per_image)",
        "tiles_t = t.repeat(per_image)",
        "tests/restoration/test_tiling.py::test_a_constant_stays_constant_and_each_image_its_own",
    ),
    (
        "restore_diff/restoration/padding.py",
        "period = max(2 * (old - 1), 1)",
        "period = 2 * old",
        "tests/restoration/test_padding.py::test_padding_is_torchs_reflection_where_torch_can",
    ),
    (
        "restore_diff/restoration/restorer.py",
        'generator(seed, "noise", name, draw)',
        'generator(seed, "noise", name)',
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
]
