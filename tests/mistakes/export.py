"""Deliberate mistakes in writing weights for others: (file, text that occurs once, mistake, test that fails by it)."""

ONNX = "restore_diff/interop/onnx.py"
DIFFUSERS = "restore_diff/interop/diffusers.py"
COMMAND = "restore_diff/commands/export.py"
AVERAGE = "examples/average_weights.py"
AVERAGE_TESTS = "tests/training/test_average_example.py::"
ONNX_TESTS = "tests/interop/test_onnx.py::"
DIFFUSERS_TESTS = "tests/interop/test_diffusers.py::"
COMMAND_TESTS = "tests/commands/test_export.py::"

MUTATIONS = [
    (
        ONNX,
        "generator=random) * 2 - 1\n    return x_t, torch.randint(0, 1000, (batch,), generator=random), degraded",
        "generator=random) * 2 - 1\n    return x_t, torch.randint(0, 1000, (batch,), generator=random), x_t",
        ONNX_TESTS + "test_the_file_computes_what_the_network_does_at_any_batch_height_and_width",
    ),
    (
        ONNX,
        "if not difference <= TOLERANCE:",
        "if difference > TOLERANCE:",
        ONNX_TESTS + "test_a_file_that_computes_something_else_is_refused",
    ),
    (
        ONNX,
        "TOLERANCE = 1e-4",
        "TOLERANCE = 1e-2",
        ONNX_TESTS + "test_a_file_that_computes_something_else_is_refused",
    ),
    (
        ONNX,
        "torch.stack(differences).max().item()",
        "max(0.0, *[difference.item() for difference in differences])",
        ONNX_TESTS + "test_a_file_that_computes_something_else_is_refused",
    ),
    (
        ONNX,
        '"prediction": config.diffusion.prediction',
        '"prediction": "epsilon"',
        ONNX_TESTS + "test_its_metadata_is_all_that_a_sampler_needs",
    ),
    (
        ONNX,
        'part.ClearField("metadata_props")',
        "pass",
        ONNX_TESTS + "test_the_file_names_its_axes_and_nothing_of_this_machine",
    ),
    (
        DIFFUSERS,
        "config.head_channels or None",
        "config.head_channels or 8",
        DIFFUSERS_TESTS + "test_diffusers_loads_the_folder_and_computes_the_same",
    ),
    (
        DIFFUSERS,
        '"downsample_padding": 0',
        '"downsample_padding": 1',
        DIFFUSERS_TESTS + "test_diffusers_loads_the_folder_and_computes_the_same",
    ),
    (
        DIFFUSERS,
        "for kind in reversed(kinds)",
        "for kind in kinds",
        DIFFUSERS_TESTS + "test_diffusers_loads_the_folder_and_computes_the_same",
    ),
    (
        DIFFUSERS,
        "    (folder / CONFIG_FILE).unlink(missing_ok=True)\n",
        "",
        DIFFUSERS_TESTS + "test_a_write_that_fails_leaves_no_folder_that_loads",
    ),
    (
        COMMAND,
        "    alpha_bar = build.schedule(config).alpha_bar",
        "    output.parent.mkdir(parents=True)\n    alpha_bar = build.schedule(config).alpha_bar",
        COMMAND_TESTS + "test_an_onnx_file_that_fails_its_check_is_not_written",
    ),
    (
        COMMAND,
        "if taken and not args.overwrite",
        "if taken and args.overwrite",
        COMMAND_TESTS + "test_nothing_is_replaced_unasked",
    ),
    (
        AVERAGE,
        ".mean(0)",
        ".median(0).values",
        AVERAGE_TESTS + "test_each_weight_is_the_mean_of_all_files_and_the_config_that_of_the_last",
    ),
    (
        AVERAGE,
        "if of_path.model != config.model",
        "if of_path.data != config.data",
        AVERAGE_TESTS + "test_different_networks_have_no_mean",
    ),
]
