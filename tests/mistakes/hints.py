"""Deliberate mistakes in hints, in the network of gates, in the relative loss and in what ships with the package."""

MUTATIONS = [
    (
        "restore_diff/hints.py",
        "if draw >= dropout else None",
        "if draw < dropout else None",
        "tests/test_hints.py::test_some_are_kept_secret_whichever_batch_they_come_in",
    ),
    (
        "restore_diff/hints.py",
        'generator(seed, "hint", position)',
        'generator(seed, "hint")',
        "tests/test_hints.py::test_some_are_kept_secret_whichever_batch_they_come_in",
    ),
    (
        "restore_diff/data/samples.py",
        "weathers[row] = kind",
        "weathers[-1 - row] = kind",
        "tests/data/test_loading.py::test_a_batch_tells_what_was_rendered_on_each_image",
    ),
    (
        "restore_diff/training/optimisation.py",
        "return self._network(x_t, t, degraded, **told).float()",
        "return self._network(x_t, t, degraded).float()",
        "tests/training/test_optimisation.py::test_a_network_that_takes_hints_is_told_the_weather_of_some_samples",
    ),
    (
        "restore_diff/models/unet.py",
        "            embedding = embedding + self.weather_embedding(weather)\n",
        "            embedding = embedding\n",
        "tests/models/test_nafnet.py::test_a_hint_changes_the_output_and_no_hint_is_all_zeros[unet]",
    ),
    (
        "restore_diff/models/nafnet.py",
        "input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)",
        "input.transpose(1, 3)).permute(0, 3, 1, 2)",
        "tests/models/test_nafnet.py::test_a_pixel_sees_nothing_beyond_its_reach",
    ),
    (
        "restore_diff/models/nafnet.py",
        "zeroed(nn.Conv2d(widths[0], config.image_channels * folded, 3, padding=1))",
        "nn.Conv2d(widths[0], config.image_channels * folded, 3, padding=1)",
        "tests/models/test_nafnet.py::test_an_untrained_network_puts_out_zero",
    ),
    (
        "restore_diff/diffusion/gaussian.py",
        "(self.config.relative_floor + (degraded - clean).square()",
        "(self.config.relative_floor + (degraded - clean).abs()",
        "tests/diffusion/test_gaussian.py::test_a_relative_loss_counts_each_sample_by_how_much_of_its_degradation_stays",
    ),
    (
        "restore_diff/training/weights.py",
        "tensor.float() if tensor.dtype == torch.float16 else tensor",
        "tensor",
        "tests/commands/test_export.py::test_half_precision_halves_the_file_and_a_card_goes_into_it",
    ),
    (
        "restore_diff/build.py",
        "if not config.model.hint:",
        "if False:",
        "tests/commands/test_shipped.py::test_a_hint_to_weights_that_take_none_is_refused",
    ),
    (
        "restore_diff/commands/training_run.py",
        "model = trained.initial_network(config)",
        "model = build.network(config)",
        "tests/commands/test_train.py::test_training_can_start_from_weights",
    ),
    (
        "restore_diff/trained.py",
        "checkpoint or newest_run() or SHIPPED_NAME",
        "checkpoint or SHIPPED_NAME",
        "tests/commands/test_test.py::test_without_arguments_the_newest_run_is_scored_on_its_own_test_set_as_training_scored_it",
    ),
    (
        "restore_diff/commands/restore.py",
        'weather=None if args.weather == "auto" else args.weather',
        "weather=None",
        "tests/commands/test_shipped.py::test_a_hint_tells_the_network_what_to_take_out",
    ),
]
