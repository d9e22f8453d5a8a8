"""Deliberate mistakes in rendered weather: (file, text that occurs once, mistake, test that fails by it)."""

MUTATIONS = [
    (
        "restore_diff/data/weather/rain.py",
        'torch.deg2rad(-scene["angle_deg"] -',
        'torch.deg2rad(scene["angle_deg"] -',
        "tests/data/weather/test_rain.py::test_streaks_lean_by_the_angle_of_the_wind",
    ),
    (
        "restore_diff/data/weather/scene.py",
        "randoms = [generator(seed, kind) for seed in seeds]",
        "randoms = [torch.default_generator for seed in seeds]",
        "tests/data/weather/test_rain.py::test_the_same_seed_gives_the_same_picture_and_another_seed_another",
    ),
    (
        "restore_diff/data/weather/rain.py",
        "(image[streak] * height + row)",
        "(streak % len(image.unique()) * height + row)",
        "tests/data/weather/test_rain.py::test_a_picture_depends_on_its_own_seed_alone",
    ),
    (
        "restore_diff/data/weather/rain.py",
        "* sides - margin",
        "* sides",
        "tests/data/weather/test_rain.py::test_a_crop_rains_like_a_whole_photograph_up_to_its_border",
    ),
    (
        "restore_diff/data/weather/rain.py",
        'scene["density"] * sides.prod()',
        'scene["density"] * width * height',
        "tests/data/weather/test_rain.py::test_a_crop_rains_like_a_whole_photograph_up_to_its_border",
    ),
    (
        "restore_diff/data/weather/rain.py",
        ".sqrt()\n    diameter",
        "\n    diameter",
        "tests/data/weather/test_rain.py::test_drops_farther_away_leave_shorter_and_thinner_streaks",
    ),
    (
        "restore_diff/data/weather/rain.py",
        'scene["length_px"] * diameter.sqrt() / distance',
        'scene["length_px"] * diameter / distance',
        "tests/data/weather/test_rain.py::test_drops_of_many_sizes_leave_streaks_of_many_lengths",
    ),
    (
        "restore_diff/data/weather/rain.py",
        "scale = (math.sqrt(0.5) / streaks.blur)",
        "scale = (1 / streaks.blur)",
        "tests/data/weather/test_rain.py::test_a_wide_streak_is_as_bright_as_asked_for_and_a_thin_one_fainter",
    ),
    (
        "restore_diff/data/weather/rain.py",
        "(streaks.length / 2 + streaks.blur)[streak]",
        "(streaks.length + streaks.blur)[streak]",
        "tests/data/weather/test_rain.py::test_a_streak_has_the_length_asked_for",
    ),
    (
        "restore_diff/data/weather/rain.py",
        "under_veil(clean + light, scenes)",
        "under_veil(clean, scenes) + light",
        "tests/data/weather/test_rain.py::test_mist_hides_scene_and_streaks_alike",
    ),
    (
        "restore_diff/data/weather/strokes.py",
        "(start - skipped).index",
        "start.index",
        "tests/data/weather/test_rain.py::test_a_streak_has_the_length_asked_for",
    ),
    (
        "restore_diff/data/weather/rain.py",
        "(1 + wave) / 2)",
        "(1 + wave))",
        "tests/data/weather/test_rain.py::test_beads_take_half_of_their_depth_from_the_light",
    ),
    (
        "restore_diff/data/weather/rain.py",
        '["softness"] * head * length',
        '["softness"] * length',
        "tests/data/weather/test_rain.py::test_a_soft_streak_fades_over_the_share_asked_for",
    ),
    (
        "restore_diff/data/weather/rain.py",
        "@torch.no_grad()",
        "@torch.inference_mode()",
        "tests/data/weather/test_rain.py::test_dtype_stays_and_no_gradient_is_recorded",
    ),
    (
        "restore_diff/build.py",
        "if pictures:",
        "if False:",
        "tests/data/weather/test_textures.py::test_a_folder_without_images_is_refused",
    ),
]
