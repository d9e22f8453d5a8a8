"""Deliberate mistakes in what guards configs, checkpoints and run folders: (file, text, mistake, test that fails)."""

MUTATIONS = [
    (
        "restore_diff/config_source.py",
        "elif depth > MAX_DEPTH or number > MAX_EVENTS:",
        "elif depth > MAX_DEPTH:",
        "tests/test_config_faults.py::test_a_file_that_unfolds_is_refused_at_once",
    ),
    (
        "restore_diff/config_source.py",
        'elif getattr(event, "tag", None):',
        "elif False:",
        "tests/test_config_faults.py::test_tags_name_no_code_and_no_type",
    ),
    (
        "restore_diff/config_source.py",
        '"${" in event.value',
        '"${oc" in event.value',
        "tests/test_config_faults.py::test_a_file_that_unfolds_is_refused_at_once",
    ),
    (
        "restore_diff/config_source.py",
        "self.problems = [printable(problem) for problem in problems]",
        "self.problems = problems",
        "tests/test_config_faults.py::test_each_kind_of_broken_file_has_its_line",
    ),
    (
        "restore_diff/config.py",
        "with suppress(OSError):",
        "with suppress(PermissionError):",
        "tests/test_config_faults.py::test_a_path_that_is_no_file_is_told_in_one_line",
    ),
    (
        "restore_diff/training/snapshot.py",
        "return tensor.shape, tensor.dtype",
        "return tensor.shape, torch.float32",
        "tests/training/test_checkpoint_faults.py::test_numbers_of_another_type_are_refused_by_name",
    ),
    (
        "restore_diff/training/optimizer_state.py",
        "if values.keys() != keys:",
        "if not values:",
        "tests/training/test_checkpoint_faults.py::test_parts_that_do_not_fit_each_other_are_told_in_a_short_line",
    ),
    (
        "restore_diff/training/run_folder.py",
        'remove_abandoned([self.path, self.checkpoints, self.path / "samples"])',
        "remove_abandoned([self.checkpoints])",
        "tests/training/test_checkpoint_faults.py::test_what_a_kill_left_of_any_file_of_the_run_is_removed_at_the_next_start",
    ),
    (
        "restore_diff/training/run_log.py",
        "_lines_up_to(metrics, step))",
        "_lines_up_to(metrics, 10**9))",
        "tests/test_kill_training.py::test_a_run_that_is_killed_five_times_ends_like_one_that_was_not",
    ),
    (
        "restore_diff/diffusion/config.py",
        "num_timesteps: int = Field(default=1000, ge=2, le=1_000_000,",
        "num_timesteps: int = Field(default=1000, ge=2,",
        "tests/commands/test_train_faults.py::test_a_forged_state_costs_neither_time_nor_memory_and_writes_nothing",
    ),
]
