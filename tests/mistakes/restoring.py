"""Deliberate mistakes in files, faults and shares: (file, text that occurs once, mistake, test that fails by it)."""

MUTATIONS = [
    (
        "restore_diff/files.py",
        "path.is_symlink() or not path.is_file()",
        "not path.is_file()",
        "tests/test_files.py::test_only_files_that_are_named_as_ours_are_removed",
    ),
    (
        "restore_diff/files.py",
        "(run != _RUN if process == os.getpid() else not _lives(process))",
        "True",
        "tests/test_files.py::test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not",
    ),
    (
        "restore_diff/files.py",
        "(run != _RUN if process == os.getpid() else not _lives(process))",
        "not _lives(process)",
        "tests/test_files.py::test_a_number_that_this_process_now_has_does_not_protect_a_dead_ones_file",
    ),
    (
        "restore_diff/files.py",
        "{_RUN}-{next(_COUNT)}.tmp",
        "{_RUN}-0.tmp",
        "tests/test_files.py::test_processes_and_threads_that_write_one_file_do_not_meet",
    ),
    (
        "restore_diff/data/deep.py",
        "return together and",
        "return",
        "tests/data/test_deep_images.py::test_depth_that_would_be_cut_is_refused",
    ),
    (
        "restore_diff/data/decoding.py",
        "65535 - samples if is_inverted else samples",
        "samples",
        "tests/data/test_deep_images.py::test_grey_whose_white_is_zero_is_not_read_as_a_negative",
    ),
    (
        "restore_diff/data/tiff.py",
        "317: 2,",
        "317: 1,",
        "tests/data/test_deep_images.py::test_a_tiff_of_48_and_64_bits_is_read_and_written_in_full_depth",
    ),
    (
        "restore_diff/data/images.py",
        "if not bool((alpha == 1).all()):",
        "if False:",
        "tests/data/test_deep_images.py::test_alpha_that_is_opaque_everywhere_is_left_out_of_a_jpeg",
    ),
    (
        "restore_diff/data/decoding.py",
        'READ_FORMATS = ("PNG",',
        'READ_FORMATS = ("EPS", "PNG",',
        "tests/data/test_deep_images.py::test_formats_that_run_programs_are_not_read",
    ),
    (
        "restore_diff/restoration/sources.py",
        'not path.is_absolute() and ".." not in path.parts',
        "True",
        "tests/restoration/test_sources.py::test_nothing_that_a_list_says_leads_out_of_the_output_folder",
    ),
    (
        "restore_diff/restoration/job_plan.py",
        'text = unicodedata.normalize("NFC", name.as_posix())',
        "text = name.as_posix()",
        "tests/restoration/test_sources.py::test_whose_an_image_is_does_not_depend_on_the_machine_the_order_or_the_other_images",
    ),
    (
        "restore_diff/commands/restore.py",
        "    remove_abandoned(plan.folders)\n",
        "",
        "tests/commands/test_restore_options.py::test_what_a_killed_run_left_behind_goes_away_also_beside_finished_images",
    ),
    (
        "restore_diff/commands/restore.py",
        "logging_to_console(), _silent_decoders(), _terminable():",
        "logging_to_console():",
        "tests/commands/test_restore_options.py::test_odd_files_give_no_warnings_of_decoders",
    ),
    (
        "restore_diff/restoration/folder.py",
        'like = replace(like, exif=b"")',
        "pass",
        "tests/commands/test_restore_options.py::test_metadata_is_kept_or_stripped_but_for_the_colour_profile",
    ),
    (
        "restore_diff/commands/restore_report.py",
        'decode("utf-8", "backslashreplace")',
        'decode("utf-8", "replace")',
        "tests/commands/test_restore_options.py::test_a_report_holds_names_that_are_no_text",
    ),
    (
        "restore_diff/commands/restore.py",
        "            distributed.all_gather_object(tallies, tally)\n",
        "            pass\n",
        "tests/commands/test_restore_faults.py::test_torchrun_shares_the_images_and_a_bad_one_of_one_process_does_not_end_the_other",
    ),
    (
        "restore_diff/metrics/no_reference.py",
        'for name in ("connect", "connect_ex"):',
        'for name in ("connect_ex",):',
        "tests/metrics/test_no_reference.py::test_nothing_is_fetched_unless_that_is_asked_for",
    ),
]
