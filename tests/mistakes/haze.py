"""Deliberate mistakes in haze, depth, camera and composition: (file, text that occurs once, mistake, its test)."""

HAZE, DEPTH = "restore_diff/data/weather/haze.py", "restore_diff/data/weather/depth.py"
CAMERA, RENDERER = "restore_diff/data/weather/camera.py", "restore_diff/data/weather/renderer.py"
TESTS = "tests/data/weather"

MUTATIONS = [
    (
        HAZE,
        'torch.exp(-scene["beta"] * distance)',
        '1 - scene["beta"] * distance',
        f"{TESTS}/test_haze.py::test_light_is_lost_and_added_by_the_law_of_koschmieder",
    ),
    (
        HAZE,
        "depth.amax((1, 2, 3), keepdim=True)",
        "depth.amax()",
        f"{TESTS}/test_haze.py::test_each_map_is_scaled_by_its_own_largest_value",
    ),
    (
        HAZE,
        "(ramp - ramp.amin(1, keepdim=True))",
        "ramp",
        f"{TESTS}/test_haze.py::test_haze_is_bluish_or_yellowish_and_its_weakest_colour_darker_by_the_tint",
    ),
    (
        HAZE,
        "airlight * (1 - darker)",
        "airlight * (1 + darker)",
        f"{TESTS}/test_haze.py::test_uneven_haze_is_darker_at_places_by_no_more_than_asked_for_and_smoothly",
    ),
    (
        DEPTH,
        "scene = guided_blur(",
        "guided_blur(",
        f"{TESTS}/test_depth.py::test_edges_of_depth_are_edges_of_the_photograph",
    ),
    (
        DEPTH,
        "frame = max(size, FRAME_PX)",
        "frame = size",
        f"{TESTS}/test_depth.py::test_a_crop_sees_a_part_of_a_scene",
    ),
    (
        DEPTH,
        "below = seen.y - horizon",
        "below = horizon - seen.y",
        f"{TESTS}/test_depth.py::test_what_is_higher_in_the_picture_is_mostly_farther",
    ),
    (
        DEPTH,
        "torch.sigmoid(-4 * behind)",
        "torch.sigmoid(4 * behind)",
        f"{TESTS}/test_depth.py::test_the_darker_side_is_mostly_the_nearer_one",
    ),
    (
        DEPTH,
        'generator(seed, "field", purpose)',
        'generator(seed, "field")',
        f"{TESTS}/test_depth.py::test_fields_are_smooth_and_other_ones_for_each_purpose",
    ),
    (
        CAMERA,
        "light = rgb_to_linear_rgb(images.float())",
        "light = images.float()",
        f"{TESTS}/test_camera.py::test_the_variance_of_the_noise_is_that_of_poisson_and_gauss",
    ),
    (
        CAMERA,
        "read.square()",
        "read",
        f"{TESTS}/test_camera.py::test_the_variance_of_the_noise_is_that_of_poisson_and_gauss",
    ),
    (
        CAMERA,
        "(highest - lowest + 1)",
        "(highest - lowest)",
        f"{TESTS}/test_camera.py::test_every_quality_of_the_range_occurs",
    ),
    (
        CAMERA,
        "compressed = images.clone()",
        "compressed = images",
        f"{TESTS}/test_camera.py::test_a_picture_depends_on_its_own_seed_alone_and_the_scene_stays_as_it_is",
    ),
    (
        RENDERER,
        'kind.split("+")',
        'reversed(kind.split("+"))',
        f"{TESTS}/test_renderer.py::test_haze_lies_before_what_falls",
    ),
    (
        RENDERER,
        "return self.camera(degraded, seeds)",
        "return degraded",
        f"{TESTS}/test_renderer.py::test_the_camera_comes_last_and_sees_every_picture",
    ),
    (
        RENDERER,
        "degraded = clean.clone()",
        "degraded = clean",
        f"{TESTS}/test_renderer.py::test_the_clean_pictures_stay_as_they_are",
    ),
]
