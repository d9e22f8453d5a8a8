"""Deliberate mistakes in rendered raindrops: (file, text that occurs once, mistake, test that fails by it)."""

RENDERER = "restore_diff/data/weather/raindrop.py"
SHAPES = "restore_diff/data/weather/drop_shapes.py"
TESTS = "tests/data/weather/test_raindrop.py::"

MUTATIONS = [
    (
        RENDERER,
        '-scene["refraction_px"] * slope',
        'scene["refraction_px"] * slope',
        TESTS + "test_a_drop_turns_what_is_bright_above_down_and_on_the_left_to_the_right",
    ),
    (
        RENDERER,
        "CONTACT_ANGLE_DEG = 60.0",
        "CONTACT_ANGLE_DEG = 30.0",
        TESTS + "test_a_drop_is_a_spherical_cap_that_shows_the_scene_as_far_off_as_asked_for",
    ),
    (
        RENDERER,
        'draw_scenes(config, "raindrop", seeds)',
        'draw_scenes(config, "raindrop", [0] * len(seeds))',
        TESTS + "test_the_same_seed_gives_the_same_picture_and_another_seed_another",
    ),
    (
        RENDERER,
        "return torch.cat([light * hides, hides], 1)",
        "return torch.cat([light, hides], 1)",
        TESTS + "test_between_drops_the_photograph_stays_as_it_is",
    ),
    (
        RENDERER,
        "margin = math.ceil(config.blur_px[1])",
        "margin = 1",
        TESTS + "test_rendering_in_parts_leaves_no_seam",
    ),
    (
        RENDERER,
        "disc / disc.sum((-2, -1), keepdim=True)",
        "disc / disc.amax((-2, -1), keepdim=True)",
        TESTS + "test_defocus_spreads_a_drop_over_a_disc_and_loses_nothing_of_it",
    ),
    (
        RENDERER,
        "above = (1 + down) / 2",
        "above = (1 - down) / 2",
        TESTS + "test_beyond_the_picture_lies_a_sky_above_and_a_ground_of_the_pictures_colour_below",
    ),
    (
        RENDERER,
        "(down - SPOT[0])",
        "(down + SPOT[0])",
        TESTS + "test_the_bright_spot_lies_in_the_lower_part",
    ),
    (
        RENDERER,
        "window.left + window.width]",
        "window.left + window.width].clone()",
        TESTS + "test_every_size_is_rendered",
    ),
    (
        SHAPES,
        "sides, random) - margin",
        "sides, random)",
        TESTS + "test_a_crop_is_as_wet_as_a_whole_photograph_up_to_its_border",
    ),
    (
        SHAPES,
        'margin = scene["blur_px"] + largest',
        "margin = largest",
        TESTS + "test_a_crop_is_as_wet_as_a_whole_photograph_up_to_its_border",
    ),
    (
        SHAPES,
        'torch.log1p(-scene["covered"])) / 2',
        'torch.log1p(-scene["covered"]))',
        TESTS + "test_drops_cover_the_share_of_the_glass_asked_for",
    ),
    (
        SHAPES,
        "running.y[:, None] - above",
        "running.y[:, None] + above",
        TESTS + "test_running_drops_leave_a_trail_above_them",
    ),
    (
        SHAPES,
        "volume = pull * radius**3",
        "volume = pull * radius",
        TESTS + "test_a_large_drop_swallows_a_small_one",
    ),
    (
        SHAPES,
        "/ radius * stretch",
        "/ radius / stretch",
        TESTS + "test_drops_are_taller_than_wide_by_up_to_the_elongation",
    ),
    (
        SHAPES,
        "(image[drop] * window.height + row)",
        "(drop % num_images * window.height + row)",
        TESTS + "test_a_picture_depends_on_its_own_seed_alone",
    ),
]
