"""Deliberate mistakes in cards, mixtures and data faults: (file, text that occurs once, mistake, test that fails)."""

MUTATIONS = [
    (
        "restore_diff/data/order.py",
        "block * self._counts[part] + int(earlier[offset])",
        "block * len(earlier) + int(earlier[offset])",
        "tests/data/test_order.py::test_every_part_makes_whole_passes_of_its_own",
    ),
    (
        "restore_diff/data/order.py",
        'generator(seed, "mixture", block)',
        'generator(seed, "mixture")',
        "tests/data/test_order.py::test_every_block_holds_each_part_by_its_weight_in_another_order",
    ),
    (
        "restore_diff/data/order.py",
        'generator(seed, "order", *address)',
        'generator(seed, "order of parts", *address)',
        "tests/data/test_order.py::test_without_parts_each_pass_is_the_permutation_of_its_number",
    ),
    (
        "restore_diff/data/finding.py",
        "part.weight * weight / sum(inner)",
        "part.weight * weight",
        "tests/data/test_parts.py::test_a_part_that_joins_others_shares_its_weight_among_them",
    ),
    (
        "restore_diff/data/finding.py",
        'name=f"{label}/{p.name}"',
        "name=p.name",
        "tests/data/test_parts.py::test_a_card_joins_cards_and_folders_each_with_its_weather",
    ),
    (
        "restore_diff/data/finding.py",
        "[*joined_by, source])\n    for layout",
        "[source])\n    for layout",
        "tests/data/test_parts.py::test_cards_that_join_each_other_in_a_circle_are_refused",
    ),
    (
        "restore_diff/data/samples.py",
        "[pairs[row].weather for row in rendered]",
        "[pair.weather for pair in pairs[: len(rendered)]]",
        "tests/data/test_parts.py::test_a_pair_is_rendered_with_its_own_weather_in_training_and_test",
    ),
    (
        "restore_diff/data/samples.py",
        "range(place, place + MOST_REPLACED)",
        "range(place, place + 2 * MOST_REPLACED, 2)",
        "tests/data/test_faults.py::test_a_damaged_pair_is_replaced_by_the_next_and_no_other_place_changes",
    ),
    (
        "restore_diff/data/holdout.py",
        "gone = held | copies_of(held, {pair.clean for pair in pairs.pairs}) if pairs.weights else held",
        "gone = held",
        "tests/data/test_parts.py::test_a_copy_of_a_held_out_photograph_leaves_training_too",
    ),
    (
        "restore_diff/data/holdout.py",
        "key=lambda path: (_rank(path), path)",
        "key=_rank",
        "tests/data/test_holdout.py::test_of_equal_names_in_several_folders_the_first_paths_are_chosen",
    ),
    (
        "restore_diff/data/endings.py",
        "return end != PNG_END",
        "return False",
        "tests/data/test_faults.py::test_a_truncated_file_is_named_before_the_training_whatever_the_cache",
    ),
    (
        "restore_diff/data/transforms.py",
        "2 * (old - 1) - at",
        "2 * old - 1 - at",
        "tests/data/test_transforms.py::test_padding_mirrors_once_and_then_repeats_evenly_at_both_ends",
    ),
    (
        "restore_diff/data/pairs.py",
        "first[:, :height, :width], second[:, :height, :width]",
        "first[:, :height, :width], second[:, -height:, -width:]",
        "tests/commands/test_data_faults.py::test_pairs_of_a_test_set_that_differ_in_size_are_cut_only_on_request",
    ),
    (
        "restore_diff/commands/training_data.py",
        "run.write_json(RECORD, now)",
        "before or run.write_json(RECORD, now)",
        "tests/commands/test_data_faults.py::test_data_that_changed_between_two_starts_are_told_and_the_run_goes_on",
    ),
]
