"""Deliberate mistakes in training on several processes, and around its faults: as in training.py."""

TOGETHER = "tests/training/test_distributed.py::"
FAULTS = "tests/training/test_faults.py::"

MUTATIONS = [
    (
        "restore_diff/training/distributed.py",
        "        parallel.register_comm_hook(self._gradients, _sum)",
        "        pass",
        TOGETHER + "test_two_processes_do_the_steps_of_one",
    ),
    (
        "restore_diff/training/distributed.py",
        "distributed.all_reduce(number, distributed.ReduceOp.MAX)",
        "distributed.all_reduce(number, distributed.ReduceOp.MIN)",
        TOGETHER + "test_a_signal_to_one_process_stops_all_after_the_same_step_and_saves_once",
    ),
    (
        "restore_diff/training/optimisation.py",
        'mix(self._seed, "dropout", num_steps_done, self.processes.rank)',
        'mix(self._seed, "dropout", num_steps_done)',
        TOGETHER + "test_processes_draw_dropout_of_their_own",
    ),
    (
        "restore_diff/training/trainer.py",
        "            self._require_no_drift(digests(checkpoint))\n",
        "            pass\n",
        TOGETHER + "test_weights_that_drift_apart_are_noticed_before_they_are_saved",
    ),
    (
        "restore_diff/training/distributed.py",
        "self._failure() or _last_words(error)",
        "_last_words(error)",
        TOGETHER + "test_what_one_process_raises_ends_the_others_with_its_message",
    ),
    (
        "restore_diff/evaluation/sharing.py",
        "PrefixStore(f\"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}\", store)",
        'PrefixStore("start", store)',
        "tests/commands/test_torchrun.py::test_a_killed_process_ends_the_others_and_torchrun_starts_them_again_from_the_last_checkpoint",
    ),
    (
        "restore_diff/commands/training_run.py",
        "    parts = num_processes * num_micro_batches\n",
        "    parts = num_micro_batches\n",
        "tests/commands/test_torchrun.py::test_a_batch_that_cannot_be_split_evenly_is_refused_with_the_nearest_sizes",
    ),
    (
        "restore_diff/training/trainer.py",
        "not score >= self._best.score - WORRYING_FALL",
        "score < self._best.score - WORRYING_FALL",
        FAULTS + "test_a_score_that_collapses_is_warned_of_and_the_best_stays",
    ),
    (
        "restore_diff/training/data_workers.py",
        "        if -signal.SIGBUS not in ends:\n",
        "        if True:\n",
        FAULTS + "test_how_a_worker_ended_becomes_advice",
    ),
    (
        "restore_diff/training/snapshot.py",
        "    _require_same_shapes(checkpoint.model, optimisation.model.state_dict())\n",
        "",
        FAULTS + "test_a_checkpoint_of_another_model_is_told_with_counts_in_one_line",
    ),
    (
        "restore_diff/training/optimisation.py",
        "draw_noise(clean, batch.positions, self._seed)",
        "draw_noise(clean, batch.positions, self._seed + 1)",
        "tests/training/test_golden_losses.py::test_losses_are_those_of_earlier_versions",
    ),
]
