"""Deliberate mistakes in metrics/ and evaluation/: (file, text that occurs once, mistake, test that fails by it)."""

MUTATIONS = [
    (
        "restore_diff/metrics/fidelity.py",
        "return (values + 0.5).floor()",
        "return values.floor()",
        "tests/metrics/test_fidelity.py::test_rounded_luma_is_exact_for_every_colour",
    ),
    (
        "restore_diff/metrics/fidelity.py",
        "mean(dim=(1, 2, 3))\n    return 20",
        "mean()\n    return 20",
        "tests/metrics/test_fidelity.py::test_an_image_of_a_batch_has_the_value_it_has_alone",
    ),
    (
        "restore_diff/metrics/fidelity.py",
        "red, green, blue = levels.unbind(dim=1)",
        "blue, green, red = levels.unbind(dim=1)",
        "tests/metrics/test_protocols.py::test_golden_values",
    ),
    (
        "restore_diff/metrics/fidelity.py",
        "for axis in (-2, -1):",
        "for axis in (-1, -1):",
        "tests/metrics/test_fidelity.py::test_ssim_is_that_of_the_2003_code_by_scikit_image",
    ),
    (
        "restore_diff/metrics/fidelity.py",
        'precision = torch.float32 if images.device.type == "mps" else torch.float64',
        "precision = torch.float32",
        "tests/metrics/test_fidelity.py::test_psnr_is_that_of_scikit_image",
    ),
    (
        "restore_diff/metrics/protocols.py",
        'name="y_matlab", channel="y", round_y=True',
        'name="y_matlab", channel="y"',
        "tests/metrics/test_protocols.py::test_golden_values",
    ),
    (
        "restore_diff/metrics/perceptual.py",
        "distance(a * 2 - 1, b * 2 - 1)",
        "distance(a, b)",
        "tests/metrics/test_perceptual.py::test_it_is_the_packages_with_the_same_trunk",
    ),
    (
        "restore_diff/metrics/perceptual.py",
        "return super().train(False)",
        "return super().train(mode)",
        "tests/metrics/test_perceptual.py::test_neither_training_mode_nor_autocast_nor_gradients_reach_it",
    ),
    (
        "restore_diff/metrics/perceptual.py",
        "if promised and not digest.startswith(promised[1]):",
        "if promised and not promised[1]:",
        "tests/metrics/test_perceptual.py::test_a_damaged_checkpoint_is_refused_by_the_hash_in_its_name",
    ),
    (
        "restore_diff/evaluation/scoring.py",
        "return to_levels(images).nan_to_num_(0).to(torch.uint8)",
        "return to_levels(images, quantize=False).nan_to_num_(0).to(torch.uint8)",
        "tests/evaluation/test_evaluator.py::test_grey_pixels_outside_the_range_are_clamped_as_a_file_would",
    ),
    (
        "restore_diff/evaluation/summary.py",
        "seeds.mean().item() for seeds in finite",
        "seeds.max().item() for seeds in finite",
        "tests/evaluation/test_summary.py::test_seeds_are_averaged_within_an_image_never_the_best",
    ),
    (
        "restore_diff/evaluation/evaluator.py",
        "self.scorer(degraded, clean).items()",
        "self.scorer(clean, clean).items()",
        "tests/evaluation/test_evaluator.py::test_every_image_and_seed_has_a_row_with_its_own_scores_and_its_inputs",
    ),
    (
        "restore_diff/evaluation/folders.py",
        "if lossy and not allow_jpeg:",
        "if lossy and allow_jpeg:",
        "tests/evaluation/test_folders.py::test_jpeg_results_are_refused_unless_allowed",
    ),
]
