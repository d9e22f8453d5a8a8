"""Deliberate mistakes in restoring folders: (file, text that occurs once, mistake, test that fails by it)."""

MUTATIONS = [
    (
        "restore_diff/restoration/scan.py",
        'return "linked folder" if folder.is_symlink() else ""',
        'return ""',
        "tests/restoration/test_scan.py::test_links_to_folders_are_not_followed_so_that_loops_end",
    ),
    (
        "restore_diff/restoration/scan.py",
        "recursive and not _same(folder / child, excluded)",
        "recursive",
        "tests/restoration/test_scan.py::test_the_output_folder_inside_the_input_is_not_scanned",
    ),
    (
        "restore_diff/restoration/scan.py",
        "path.suffix.lower() in IMAGE_ENDINGS or is_image(path)",
        "is_image(path)",
        "tests/restoration/test_scan.py::test_a_damaged_file_with_the_ending_of_an_image_is_not_ignored",
    ),
    (
        "restore_diff/restoration/job_plan.py",
        'unicodedata.normalize("NFC", str(path)).casefold()',
        "str(path)",
        "tests/restoration/test_job_plan.py::test_outputs_of_one_name_are_found_before_the_work",
    ),
    (
        "restore_diff/restoration/job_plan.py",
        "    _check_that_inputs_survive(jobs)\n",
        "",
        "tests/restoration/test_job_plan.py::test_an_output_that_is_an_input_is_refused_however_it_is_reached",
    ),
    (
        "restore_diff/restoration/job_plan.py",
        "    _check_containment(jobs, root)\n",
        "",
        "tests/restoration/test_job_plan.py::test_a_link_in_the_output_folder_cannot_lead_out_of_it",
    ),
    (
        "restore_diff/restoration/folder.py",
        "                restored = _restore(job, reading, restore)\n                yield from _finished(pending)\n",
        "                yield from _finished(pending)\n                restored = _restore(job, reading, restore)\n",
        "tests/restoration/test_folder.py::test_the_next_is_read_and_the_last_is_written_while_one_is_restored",
    ),
    (
        "restore_diff/restoration/folder.py",
        "        if len(readings) > 1:\n",
        "        if readings:\n",
        "tests/restoration/test_folder.py::test_the_next_is_read_and_the_last_is_written_while_one_is_restored",
    ),
    (
        "restore_diff/restoration/folder.py",
        "        if len(readings) > 1:\n",
        "        if len(readings) > 8:\n",
        "tests/restoration/test_folder.py::test_memory_stays_flat",
    ),
    (
        "restore_diff/restoration/folder.py",
        "job.source.name).cpu()",
        "str(job.source)).cpu()",
        "tests/restoration/test_folder.py::test_the_noise_of_an_image_belongs_to_its_file_name",
    ),
    (
        "restore_diff/restoration/folder.py",
        "            yield from _finished(pending)\n            raise\n",
        "            raise\n",
        "tests/restoration/test_folder.py::test_an_interrupt_finishes_the_image_that_is_being_written",
    ),
    (
        "restore_diff/restoration/folder.py",
        "torch.cat([restored.image.pixels, restored.pixels], dim=2)",
        "torch.cat([restored.pixels, restored.image.pixels], dim=2)",
        "tests/restoration/test_folder.py::test_a_comparison_shows_the_degraded_image_left_of_the_restored",
    ),
    (
        "restore_diff/restoration/folder.py",
        "        if outcome.disk_full:\n            raise DiskFull(errno.ENOSPC, outcome.reason)\n",
        "",
        "tests/restoration/test_folder.py::test_a_full_disk_ends_the_run_and_is_told",
    ),
    (
        "restore_diff/restoration/folder.py",
        "restored.pixels, like=like, quality",
        "restored.pixels, like=None, quality",
        "tests/commands/test_restore.py::test_a_png_keeps_its_mode_and_its_transparency",
    ),
    (
        "restore_diff/commands/restore_report.py",
        "return SOME_FAILED if self.of(FAILED) else OK",
        "return OK",
        "tests/commands/test_restore.py::test_bad_files_are_listed_at_the_end_and_the_exit_code_says_so",
    ),
    (
        "restore_diff/commands/restore.py",
        "restorer.restore(image, names=[name], seed=args.seed)",
        "restorer.restore(image, names=[name])",
        "tests/commands/test_restore.py::test_a_single_file_gives_the_same_as_in_its_folder",
    ),
    (
        "restore_diff/restoration/folder.py",
        "/ WHITE_UNCERTAINTY).clamp(0, 1)",
        "* WHITE_UNCERTAINTY).clamp(0, 1)",
        "tests/restoration/test_folder.py::test_the_uncertainty_is_drawn_from_black_to_a_standard_deviation_of_a_tenth",
    ),
    (
        "restore_diff/dial.py",
        '"tiling__window": "hann"',
        '"tiling__window": "box"',
        "tests/test_dial.py::test_a_stepwise_network_is_smooth_at_the_borders_of_its_tiles",
    ),
]
