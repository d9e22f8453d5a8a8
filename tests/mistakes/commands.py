"""Deliberate mistakes in train.py and test.py: (file, text that occurs once, mistake, test that fails by it)."""

MUTATIONS = [
    (
        "restore_diff/build.py",
        "from restore_diff.data.weather.renderer import",
        "from restore_diff.data.weather import layers  # noqa: F401\nfrom restore_diff.data.weather.renderer import",
        "tests/commands/test_shipped.py::test_restoring_does_not_wait_for_libraries_that_it_does_not_use",
    ),
    (
        "restore_diff/build.py",
        'return _usable(config, replace(find_pairs(source, "test", Path(config.data.root)), crop_to_min=crop_to_min))',
        'return find_pairs(source, "test", Path(config.data.root))',
        "tests/commands/test_train.py::test_a_mistake_is_told_in_one_line_before_anything_is_written",
    ),
    (
        "restore_diff/build.py",
        "return training, validation and _whole(config, validation)",
        "return training, validation",
        "tests/commands/test_train.py::test_a_held_out_pair_that_does_not_fit_is_told_before_the_training",
    ),
    (
        "restore_diff/build.py",
        "        if weights is not None:\n",
        "        if weights is None:\n",
        "tests/commands/test_test.py::test_lpips_that_was_insisted_on_is_refused_where_it_cannot_be_computed",
    ),
    (
        "restore_diff/commands/scoring.py",
        'parent / (re.sub(r"[^\\w-]+", "_", source).strip("_")[-60:] or "here")',
        "parent / source",
        "tests/commands/test_test.py::test_each_test_set_has_a_report_of_its_own_in_the_run_folder",
    ),
    (
        "restore_diff/commands/scoring.py",
        "                path.parent.mkdir(parents=True, exist_ok=True)\n",
        "",
        "tests/commands/test_test.py::test_saved_images_scored_from_their_files_give_exactly_the_same_numbers",
    ),
    (
        "restore_diff/commands/training_run.py",
        "        interruption,\n        validate,\n",
        "        Interruption(),\n        validate,\n",
        "tests/commands/test_train.py::test_a_run_stopped_by_sigterm_and_started_again_equals_an_uninterrupted_one",
    ),
    (
        "restore_diff/commands/training_run.py",
        "        if args.fresh and share.is_first and (previous := run.set_aside()):\n",
        "        if share.is_first and (previous := run.set_aside()) and args.fresh:\n",
        "tests/commands/test_train.py::test_the_same_command_again_says_finished_and_trains_no_further",
    ),
    (
        "restore_diff/commands/training_run.py",
        "shared_clean_images(training, test)",
        "shared_clean_images(test, training)",
        "tests/commands/test_train.py::test_test_images_that_are_trained_on_are_warned_of",
    ),
    (
        "restore_diff/commands/test_run.py",
        "range(args.seeds)",
        "[args.seeds]",
        "tests/commands/test_test.py::test_without_arguments_the_newest_run_is_scored_on_its_own_test_set_as_training_scored_it",
    ),
]
