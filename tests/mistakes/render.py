"""Deliberate mistakes in textures and in render: (file, text that occurs once, mistake, test that fails by it)."""

TEXTURES, TEXTURE_TESTS = "restore_diff/data/weather/textures.py", "tests/data/weather/test_textures.py::"
COMMANDS, COMMAND_TESTS = "restore_diff/commands/", "tests/commands/test_render.py::"

MUTATIONS = [
    (
        TEXTURES,
        "start * ramp + end * (1 - ramp)",
        "start * (1 - ramp) + end * ramp",
        TEXTURE_TESTS + "test_a_piece_larger_than_its_picture_has_no_edge",
    ),
    (
        TEXTURES,
        "255 / light.max()",
        "1",
        TEXTURE_TESTS + "test_the_brightest_point_counts_as_one_whatever_the_colour",
    ),
    (
        TEXTURES,
        "picture = picture.flip(-1) if mirrored < 0.5 else picture\n        light = torch.zeros(1, height, width)\n"
        "        for scale in scales:\n",
        "light = torch.zeros(1, height, width)\n        for scale in scales:\n"
        "            picture = picture.flip(-1) if torch.rand(1, generator=random) < 0.5 else picture\n",
        TEXTURE_TESTS + "test_layers_of_several_sizes_lean_alike_and_add_up_to_one_at_most",
    ),
    (
        TEXTURES,
        "round(size / scale)",
        "round(size * scale)",
        TEXTURE_TESTS + "test_a_scale_enlarges_what_lies_in_the_picture",
    ),
    (
        TEXTURES,
        "read_sizes(paths)  #",
        "#",
        TEXTURE_TESTS + "test_damaged_and_black_pictures_are_told",
    ),
    (
        "restore_diff/data/weather/rain.py",
        'return scene["brightness"] * textures',
        "return textures",
        TEXTURE_TESTS + "test_streaks_of_textures_add_light_of_the_brightness_asked_for",
    ),
    (
        "restore_diff/data/names.py",
        "(lambda name: _known_start(name, names), _same),",
        "",
        COMMAND_TESTS + "test_every_copy_finds_its_own_photograph_whatever_its_name",
    ),
    (
        COMMANDS + "rendering.py",
        '"weather", picture.name)',
        '"weather", 0)',
        COMMAND_TESTS + "test_every_copy_finds_its_own_photograph_whatever_its_name",
    ),
    (
        COMMANDS + "rendering.py",
        "tally.failed.append(_reason(job, error))",
        "raise",
        COMMAND_TESTS + "test_bad_photographs_are_listed_and_the_others_rendered",
    ),
    (
        COMMANDS + "rendering.py",
        "    check_record(args.output, record)\n",
        "",
        COMMAND_TESTS + "test_pictures_of_other_settings_are_not_mixed",
    ),
    (
        COMMANDS + "render_plan.py",
        "(p.path.exists() and target.exists())",
        "p.path.exists()",
        COMMAND_TESTS + "test_what_is_done_is_skipped_and_what_is_missing_comes_out_the_same",
    ),
    (
        COMMANDS + "render_plan.py",
        "Path(os.path.realpath(source)), Path(os.path.realpath(output))",
        "source, output",
        COMMAND_TESTS + "test_an_output_inside_of_the_input_is_refused",
    ),
    (
        COMMANDS + "contact_sheet.py",
        "replace(centred, weather=kind",
        "replace(config, weather=kind",
        COMMAND_TESTS + "test_a_contact_sheet_of_several_weathers_shows_the_settings_of_all",
    ),
]
