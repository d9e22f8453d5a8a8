"""Quality presets: each is valid for any recipe, and fast is the cheaper one."""

import pytest

from restore_diff.config import load_config
from restore_diff.restoration.tiling import network_pixels
from restore_diff.trained import DIRECT, QUALITIES, STEPWISE, at_quality

RECIPES = ["derain.yaml", "dehaze.yaml", "all_weather.yaml", "weatherdiff64.yaml"]


def cost(config) -> float:
    """Network pixels per pixel of a 720 x 480 photograph."""
    tiling, sampler = config.tiling, config.sampler
    per_call = network_pixels(480, 720, tiling)
    return per_call * sampler.num_steps * sampler.num_samples


@pytest.mark.parametrize("recipe", RECIPES)
def test_fast_is_no_dearer_than_balanced(recipe):
    config = load_config([recipe])
    costs = [cost(at_quality(config, quality)) for quality in QUALITIES]
    assert costs == sorted(costs)
    assert recipe in ("derain.yaml", "dehaze.yaml") or costs[1] > 1.5 * costs[0]  # those take one sample of one step


def test_fast_is_one_call_for_a_direct_network():
    for recipe in RECIPES[:3]:
        sampler = at_quality(load_config([recipe]), "fast").sampler
        assert (sampler.num_steps, sampler.num_samples) == (1, 1)


def test_balanced_is_the_recipe_for_a_direct_network():
    config = load_config(["derain.yaml"])
    assert at_quality(config, "balanced") == config


def test_balanced_is_ten_times_cheaper_than_the_stepwise_recipe():
    config = load_config(["weatherdiff64.yaml"])
    assert cost(config) > 10 * cost(at_quality(config, "balanced"))


def test_every_quality_is_in_both_tables():
    assert tuple(DIRECT) == tuple(STEPWISE) == QUALITIES


def test_presets_of_stepwise_networks_hide_the_borders_of_tiles():
    config = load_config(["weatherdiff64.yaml"])
    assert config.tiling.window == "box"
    for quality in QUALITIES:
        tiling = at_quality(config, quality).tiling
        assert tiling.grid == "shifted" or (tiling.window == "hann" and tiling.tile_overlap_px >= 16)
