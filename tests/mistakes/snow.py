"""Deliberate mistakes in rendered snow: (file, text that occurs once, mistake, test that fails by it)."""

SNOW = "restore_diff/data/weather/snow.py"
TESTS = "tests/data/weather/test_snow.py::test_"

MUTATIONS = [
    (
        SNOW,
        'draw_scenes(config, "snow", seeds)',
        'draw_scenes(config, "snow", [0] * len(seeds))',
        TESTS + "the_same_seed_gives_the_same_picture_and_another_seed_another",
    ),
    (SNOW, "(image * height + row)", "(image * 0 + row)", TESTS + "a_picture_depends_on_its_own_seed_alone"),
    (SNOW, "clean * (1 - opacity)", "clean", TESTS + "each_value_lies_between_the_photograph_and_the_flakes"),
    (
        SNOW,
        "torch.tensor([1.0, 0.5, 0.0])",
        "torch.tensor([0.0, 0.5, 1.0])",
        TESTS + "flakes_hide_the_same_share_of_whatever_is_behind_them",
    ),
    (
        "restore_diff/data/weather/scene.py",
        "images * (1 - veil) +",
        "images * (1 - veil) + 0 *",
        TESTS + "mist_hides_scene_and_flakes_alike",
    ),
    (SNOW, "* sides - margin", "* sides", TESTS + "a_crop_snows_like_a_whole_photograph_up_to_its_border"),
    (SNOW, "* 3 / (1 +", "/ (1 +", TESTS + "flakes_cover_the_share_asked_for_whatever_their_size_blur_and_way"),
    (
        SNOW,
        "peak / (width * blur * path)",
        "peak / (width * blur)",
        TESTS + "flakes_cover_the_share_asked_for_whatever_their_size_blur_and_way",
    ),
    (SNOW, "path / 2, outer", "path, outer", TESTS + "flakes_are_drawn_out_along_their_way_by_its_length"),
    (SNOW, "deg2rad(-scene", "deg2rad(scene", TESTS + "flakes_are_drawn_out_along_their_way_by_its_length"),
    (SNOW, ".pow(1 / 3)", ".pow(1 / 2)", TESTS + "most_flakes_are_far_and_small"),
    (SNOW, '- 1 / scene["depth"])', ")", TESTS + "the_far_end_is_in_focus_and_near_flakes_are_wide_and_translucent"),
    (
        SNOW,
        "torch.where(wide, NUM_CRYSTALS, 1)",
        "torch.where(wide, 1, 1)",
        TESTS + "small_flakes_are_round_and_wide_ones_have_shapes",
    ),
    (SNOW, 'scene["opacity"] * masks.crop', "masks.crop", TESTS + "masks_are_what_holds_the_light_back"),
    (
        "restore_diff/build.py",
        'if "snow" in layers',
        "if False",
        TESTS + "a_folder_without_masks_is_told_before_rendering",
    ),
]
