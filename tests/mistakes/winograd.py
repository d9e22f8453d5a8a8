"""Deliberate mistakes in Winograd's convolution: (file, text that occurs once, mistake, test that fails by it)."""

FILE, TESTS = "restore_diff/models/winograd.py", "tests/models/test_winograd.py::"
SAME = f"{TESTS}test_it_is_the_convolution_with_its_gradients_whatever_is_worked_on_at_once"

MUTATIONS = [
    (FILE, "for number in reversed(range(len(parts))):", "for number in range(len(parts)):", SAME),
    (FILE, "beta=0 if is_first else 1", "beta=1", SAME),
    (FILE, "((near, far), (far, near), (far, far))", "((near, far), (far, near))", SAME),
    (FILE, "padded[:, :: height + 1] = 0", "padded[:, :: height] = 0", SAME),
    (FILE, "of_padded[:, :, -2:] = 0", "of_padded[:, :, -1:] = 0", SAME),
    (FILE, "outputs[-1, -1] = weights[-1, -1] = 1", "weights[-1, -1] = 1", SAME),
    (
        FILE,
        "(0.0, 0.75, -0.75, 1.5, -1.5)",
        "(0.0, 1.0, -1.0, 2.0, -2.0)",
        f"{TESTS}test_in_float32_it_is_off_by_a_millionth_of_the_deviation",
    ),
    (
        FILE,
        'and not torch.is_autocast_enabled("cpu")',
        "",
        f"{TESTS}test_it_pays_for_wide_layers_of_whole_tiles_in_float32",
    ),
    (
        FILE,
        "and not torch.compiler.is_compiling()",
        "",
        f"{TESTS}test_a_compiler_is_given_the_convolution_itself",
    ),
    (FILE, "    @once_differentiable\n", "", f"{TESTS}test_no_gradient_of_its_gradient_is_made_up"),
    (
        "restore_diff/models/layers.py",
        "if self.training and winograd",
        "if winograd",
        f"{TESTS}test_a_layer_takes_it_in_training_alone",
    ),
    (
        "restore_diff/models/layers.py",
        "if self.training and winograd.pays(",
        "if False and winograd.pays(",
        f"{TESTS}test_a_layer_takes_it_in_training_alone",
    ),
]
