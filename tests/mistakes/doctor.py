"""Deliberate mistakes in doctor: (file, text that occurs once, mistake, test that fails by it)."""

LEAKS = "tests/data/test_leaks.py::test_"
DOCTOR = "tests/commands/test_doctor.py::test_"

MUTATIONS = [
    (
        "restore_diff/data/leaks.py",
        "((whole, table.whole), (whole, table.inner), (inner, table.whole))",
        "((whole, table.whole),)",
        LEAKS + "a_small_picture_that_lost_its_border_is_found",
    ),
    (
        "restore_diff/data/leaks.py",
        "laid = laid * signs[:, None] if turn & 2 else laid",
        "laid = laid * signs if turn & 2 else laid",
        LEAKS + "the_way_that_a_picture_lies_is_told",
    ),
    (
        "restore_diff/data/leaks.py",
        "alike[np.arange(len(block)), start + np.arange(len(block))] = -1",
        "alike[np.arange(len(block)), np.arange(len(block))] = -1",
        LEAKS + "copies_beyond_one_block_are_found",
    ),
    (
        "restore_diff/data/leaks.py",
        "np.where(says_nothing, 0, 1 / np.maximum(norms, 1e-6))",
        "(1 / np.maximum(norms, 1e-6))",
        LEAKS + "a_picture_without_contrast_is_like_nothing",
    ),
    (
        "restore_diff/data/registration.py",
        "np.sqrt((mean[1] + noise) * (mean[2] + noise))",
        "np.sqrt(mean[1] * mean[2] + 1e-9)",
        LEAKS + "one_edge_in_an_empty_sky_does_not_make_two_pictures_alike",
    ),
    (
        "restore_diff/data/registration.py",
        "parameters = parameters + step",
        "parameters = parameters - step",
        LEAKS + "alignment_undoes_a_shift_and_a_stretch_of_each_axis",
    ),
    (
        "restore_diff/doctor/splitting.py",
        "members.setdefault(int(label), []).append(path)",
        "members.setdefault(len(members), []).append(path)",
        DOCTOR + "a_split_keeps_each_scene_on_one_side",
    ),
    (
        "restore_diff/doctor/splitting.py",
        "if out.exists():",
        "if out.is_file():",
        DOCTOR + "a_split_overwrites_nothing",
    ),
    (
        "restore_diff/doctor/splitting.py",
        "for names in (_own_names(pairs), _numbered_names(pairs)):",
        "for names in (_own_names(pairs),):",
        DOCTOR + "several_versions_of_a_clean_image_stay_together_under_names_that_pair",
    ),
    (
        "restore_diff/doctor/set_checks.py",
        "alike[place[pair.clean]] < LEAST_LIKE",
        "survey.psnr.get(pair.name, 99) < 8",
        DOCTOR + "haze_that_hides_most_of_a_picture_is_no_other_picture",
    ),
    (
        "restore_diff/commands/doctor.py",
        "if first.split != second.split:",
        "if first.label != second.label:",
        DOCTOR + "another_set_is_looked_through_on_request",
    ),
    (
        "restore_diff/doctor/check.py",
        '"items": list(self.items)',
        '"items": list(self.items)[:1]',
        DOCTOR + "pictures_that_come_twice_are_named",
    ),
    (
        "restore_diff/doctor/machine.py",
        "needed = data.num_workers * PREFETCHED * batch_bytes",
        "needed = PREFETCHED * batch_bytes",
        DOCTOR + "shared_memory_that_is_too_small_names_the_option_of_docker",
    ),
]
