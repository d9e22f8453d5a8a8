"""Deliberate mistakes in reading others' files: (file, text that occurs once, mistake, test that fails by it)."""

TESTS = "tests/interop/test_weatherdiffusion.py::"
FILE = "restore_diff/interop/weatherdiffusion.py"

MUTATIONS = [
    (FILE, 'content.get("ema_helper") or content', "content", TESTS + "test_the_network_puts_out_what_theirs_does"),
    (FILE, "num_levels - 1 - int(level[1])", "int(level[1])", TESTS + "test_the_network_puts_out_what_theirs_does"),
    (
        FILE,
        '"tile_overlap_px": size - 16',
        '"tile_overlap_px": 8',
        TESTS + "test_the_config_is_read_off_the_tensors",
    ),
    (FILE, '"window": "box"', '"window": "hann"', TESTS + "test_the_sampler_puts_out_what_theirs_does"),
    (FILE, '"clip": False', '"clip": True', TESTS + "test_the_sampler_puts_out_what_theirs_does"),
    (FILE, "weights_only=True", "weights_only=False", TESTS + "test_code_in_a_pickle_is_refused_and_not_run"),
]
