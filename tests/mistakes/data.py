"""Deliberate mistakes in restore_diff/data: (file, text that occurs once, mistake, test that fails by it)."""

MUTATIONS = [
    (
        "restore_diff/data/deep.py",
        "        samples += _read(again, colours + low)\n",
        "        samples += samples // 256\n",
        "tests/data/test_images.py::test_16_bit_png_keeps_all_bits_of_every_colour_type",
    ),
    (
        "restore_diff/data/decoding.py",
        "6: (2,), 7: (1, 2), 8: (1,)",
        "6: (1,), 7: (1, 2), 8: (2,)",
        "tests/data/test_images.py::test_orientation_is_applied_once_and_metadata_kept",
    ),
    (
        "restore_diff/data/decoding.py",
        "            exif[ORIENTATION] = 1\n",
        "            pass\n",
        "tests/data/test_images.py::test_orientation_is_applied_once_and_metadata_kept",
    ),
    (
        "restore_diff/data/images.py",
        "* levels + 0.5).floor()",
        "* levels).floor()",
        "tests/data/test_images.py::test_levels_are_rounded_half_up_and_clamped",
    ),
    (
        "restore_diff/files.py",
        "        temporary.unlink(missing_ok=True)\n        raise",
        "        raise",
        "tests/data/test_images.py::test_a_failed_write_leaves_the_old_file_and_nothing_else",
    ),
    (
        "restore_diff/data/names.py",
        '    start, underscore, _ = name.rpartition("_")\n    while underscore and start',
        '    start, underscore = name, "_"\n    while underscore and start',
        "tests/data/test_pairs.py::test_names_that_are_merely_alike_are_no_pair",
    ),
    (
        "restore_diff/data/names.py",
        "match = compiled.fullmatch(name)",
        "match = compiled.match(name)",
        "tests/data/test_cards.py::test_a_card_pairs_files_as_the_data_set_names_them",
    ),
    (
        "restore_diff/data/pairs.py",
        'mix(self.seed, "weather", pair.name)',
        'mix(self.seed, "weather", index)',
        "tests/data/test_pairs.py::test_rendered_weather_depends_on_seed_and_name_alone",
    ),
    (
        "restore_diff/data/transforms.py",
        "_draw(height - size_px + 1, generator)",
        "_draw(height - size_px, generator) if height > size_px else 0",
        "tests/data/test_transforms.py::test_crops_are_placed_uniformly_up_to_every_border",
    ),
    (
        "restore_diff/data/transforms.py",
        "return [torch.rot90(image, turns, (1, 2)) for image in images]",
        "return [torch.rot90(image, turns + i, (1, 2)) for i, image in enumerate(images)]",
        "tests/data/test_loading.py::test_degraded_and_clean_crops_show_the_same_place",
    ),
    (
        "restore_diff/data/samples.py",
        'draw = generator(self.seed, "augment", position)',
        'draw = generator(self.seed, "augment", position - positions[0])',
        "tests/data/test_loading.py::test_a_sample_depends_on_its_position_not_on_how_batches_are_cut",
    ),
    (
        "restore_diff/data/loading.py",
        "(micro * self.world + self.rank) * self.micro_batch_size",
        "(self.rank * self.world + micro) * self.micro_batch_size",
        "tests/data/test_loading.py::test_a_sample_depends_on_its_position_not_on_how_batches_are_cut",
    ),
    (
        "restore_diff/data/order.py",
        'generator(seed, "order", *address)',
        'generator(seed, "order")',
        "tests/data/test_loading.py::test_each_pass_takes_every_image_once_in_another_order",
    ),
    (
        "restore_diff/data/loading.py",
        "sampler=range(step * self._split.num_micro_batches, ENDLESS)",
        "sampler=range(step, ENDLESS)",
        "tests/data/test_loading.py::test_batches_are_the_same_for_any_number_of_workers_cache_and_entry",
    ),
    (
        "restore_diff/data/decoded_images.py",
        "end += 3 * height * width",
        "end += height * width",
        "tests/data/test_loading.py::test_batches_are_the_same_for_any_number_of_workers_cache_and_entry",
    ),
    (
        "restore_diff/data/holdout.py",
        "if pair.clean not in gone",
        "if pair not in validation",
        "tests/data/test_holdout.py::test_all_versions_of_a_held_out_photograph_leave_training",
    ),
]
