"""Deliberate mistakes in restore_diff/training: (file, text that occurs once, mistake, test that fails by it)."""

MUTATIONS = [
    (
        "restore_diff/training/ema.py",
        "        _copy_into(model.state_dict(), self.weights)\n        try:",
        "        try:",
        "tests/training/test_resume.py::test_validation_sees_the_averaged_weights_in_evaluation_mode_and_training_goes_on_with_its_own",
    ),
    (
        "restore_diff/training/ema.py",
        "step = 1 - self.decay_after(num_updates)",
        "step = self.decay_after(num_updates)",
        "tests/training/test_ema.py::test_the_average_is_the_recursion_with_the_warmed_up_decay",
    ),
    (
        "restore_diff/training/ema.py",
        "return min(self.decay, (1 + num_updates) / (10 + num_updates))",
        "return self.decay",
        "tests/training/test_ema.py::test_the_average_is_the_recursion_with_the_warmed_up_decay",
    ),
    (
        "restore_diff/training/optimisation.py",
        "epsilon).sum() / total",
        "epsilon).mean()",
        "tests/training/test_optimisation.py::test_micro_batches_of_any_size_give_the_gradient_of_the_whole_batch",
    ),
    (
        "restore_diff/training/optimisation.py",
        "        self.optimizer.found_inf = skip  # type: ignore[attr-defined]\n",
        "",
        "tests/training/test_resume.py::test_a_nan_stops_before_the_weights_change_and_names_the_batch",
    ),
    (
        "restore_diff/training/optimisation.py",
        '        torch.manual_seed(mix(self._seed, "dropout", num_steps_done, self.processes.rank))\n',
        "",
        "tests/training/test_resume.py::test_a_run_that_crashed_between_checkpoints_equals_an_uninterrupted_one",
    ),
    (
        "restore_diff/training/optimisation.py",
        "return config.learning_rate * (num_steps_done + 1) / config.warmup_steps",
        "return config.learning_rate * num_steps_done / config.warmup_steps",
        "tests/training/test_optimisation.py::test_the_rate_warms_up_linearly_then_follows_half_a_cosine_to_zero",
    ),
    (
        "restore_diff/training/snapshot.py",
        "    optimisation.meter.load(checkpoint.progress.meter_totals)\n",
        "",
        "tests/training/test_resume.py::test_a_run_that_crashed_between_checkpoints_equals_an_uninterrupted_one",
    ),
    (
        "restore_diff/training/snapshot.py",
        "    load_optimizer_tensors(optimisation.model, optimisation.optimizer, checkpoint.optimizer)\n",
        "",
        "tests/training/test_resume.py::test_a_run_stopped_by_a_signal_saves_once_and_equals_an_uninterrupted_one",
    ),
    (
        "restore_diff/training/checkpoint.py",
        "if sha256(data) != record.sha256:",
        "if False:",
        "tests/training/test_checkpoint.py::test_a_damaged_newest_checkpoint_is_reported_by_name_and_the_previous_one_used",
    ),
    (
        "restore_diff/training/checkpoint.py",
        'partial = folder / f"{PARTIAL}{final.name}"',
        "partial = final",
        "tests/training/test_checkpoint.py::test_a_full_disk_leaves_nothing_behind_and_says_what_is_missing",
    ),
    (
        "restore_diff/training/checkpoint_folder.py",
        "if int(path.name) != best_step:",
        "if True:",
        "tests/training/test_resume.py::test_the_best_and_the_two_newest_checkpoints_are_kept",
    ),
    (
        "restore_diff/training/run_folder.py",
        "        os.register_at_fork(after_in_child=self._lock.close)\n",
        "",
        "tests/training/test_run_folder.py::test_a_forked_worker_that_outlives_the_run_does_not_hold_the_lock",
    ),
    (
        "restore_diff/training/run_log.py",
        "if _step_of(line) <= step",
        "if True",
        "tests/training/test_run_log.py::test_lines_after_the_resumed_step_and_a_line_cut_off_by_a_kill_are_removed",
    ),
    (
        "restore_diff/training/interruption.py",
        "signal.signal(other, signal.SIG_DFL if alone else signal.SIG_IGN)",
        "pass",
        "tests/training/test_interruption.py::test_a_second_signal_leaves_at_once_and_damages_nothing",
    ),
]
