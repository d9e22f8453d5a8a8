"""Deliberate mistakes in Muon, and in going on from a checkpoint that is older than a setting."""

FILE = "restore_diff/training/muon.py"
TESTS = "tests/training/test_muon.py::"

MUTATIONS = [
    (
        FILE,
        ".lerp(state",
        ".add(state",
        f"{TESTS}test_it_is_the_optimizer_of_torch_for_matrices_and_adamw_for_the_rest",
    ),
    (
        FILE,
        "matrix.mul_(1 - lr * weight_decay * done)",
        "pass",
        f"{TESTS}test_it_is_the_optimizer_of_torch_for_matrices_and_adamw_for_the_rest",
    ),
    (
        FILE,
        "return wide.mT if is_tall else wide",
        "return wide.mT.reshape(matrices.shape)",
        f"{TESTS}test_it_is_the_optimizer_of_torch_for_matrices_and_adamw_for_the_rest",
    ),
    (
        FILE,
        "COEFFICIENTS = 3.4445, -4.7750, 2.0315",
        "COEFFICIENTS = 3.4445, -4.7750, 2.6",
        f"{TESTS}test_singular_vectors_stay_and_singular_values_come_near_one",
    ),
    (
        FILE,
        "wide.norm(dim=(1, 2), keepdim=True)",
        "wide.norm()",
        f"{TESTS}test_matrices_of_one_shape_do_not_mix",
    ),
    (
        FILE,
        "max(rows, columns) ** 0.5",
        "1",
        f"{TESTS}test_the_first_update_has_the_root_mean_square_of_adamw",
    ),
    (
        FILE,
        "and parameter.shape[1] > 1 ",
        "",
        f"{TESTS}test_images_hints_vectors_and_depthwise_convolutions_are_for_adamw",
    ),
    (
        FILE,
        "torch.where(done > 0, matrix.grad, 0)",
        "matrix.grad",
        f"{TESTS}test_a_gradient_that_is_not_finite_changes_neither_weights_nor_state",
    ),
    (
        FILE,
        "(1 - MOMENTUM) * done",
        "1 - MOMENTUM",
        f"{TESTS}test_a_gradient_that_is_not_finite_changes_neither_weights_nor_state",
    ),
    (
        "restore_diff/training/optimizer_state.py",
        "            number += 1\n",
        "",
        f"{TESTS}test_a_run_that_crashed_equals_an_uninterrupted_one",
    ),
    (
        "restore_diff/training/changes.py",
        "    old = _filled(old, defaults)\n",
        "",
        "tests/training/test_changes.py::test_a_key_that_the_checkpoint_is_too_old_to_have_had_its_default",
    ),
    (
        "restore_diff/commands/training_run.py",
        "defaults=to_dict(ExperimentConfig())",
        "defaults={}",
        "tests/commands/test_train_faults.py::test_a_run_begun_by_a_version_without_a_setting_goes_on",
    ),
]
