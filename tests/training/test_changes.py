"""Which configs may go on from a checkpoint."""

import pytest

from restore_diff.training.run import ConfigChanged, changed_keys, refused_keys, require_same_experiment

OLD = {
    "seed": 0,
    "name": "a",
    "model": {"base_channels": 64, "channel_multipliers": (1, 2)},
    "data": {"train": "x", "num_workers": 2, "rain": {}},
    "training": {"num_steps": 100, "learning_rate_decay": "cosine", "log_every_steps": 5},
    "evaluation": {"lpips": "alex"},
}


def test_a_config_does_not_differ_from_itself_read_back_from_json():
    assert changed_keys(OLD | {"model": {"base_channels": 64, "channel_multipliers": [1, 2]}}, OLD) == []


def test_keys_of_one_side_only_are_changes_too():
    new = {"seed": 0, "model": {"dropout": 0.0}}
    old = {"seed": 0, "model": {"width": 3}, "data": {}}
    assert changed_keys(old, new) == ["data", "model.dropout", "model.width"]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("data", {"num_workers": 0}),
        ("training", {"log_every_steps": 7}),
        ("training", {"num_steps": 200}),
        ("evaluation", {"lpips": "none"}),
    ],
)
def test_what_does_not_touch_a_training_step_is_harmless(section, values):
    new = OLD | {section: OLD[section] | values}
    assert len(changed_keys(OLD, new)) == 1
    assert refused_keys(OLD, new) == []


def test_a_plugin_file_may_move_between_two_starts():
    assert refused_keys(OLD | {"plugins": ["a/mine.py"]}, OLD | {"plugins": ["b/mine.py"]}) == []


@pytest.mark.parametrize(
    "new",
    [
        OLD | {"seed": 1},
        OLD | {"model": OLD["model"] | {"base_channels": 96}},
        OLD | {"data": OLD["data"] | {"train": "y"}},
        OLD | {"training": OLD["training"] | {"num_steps_warm": 1}},
        {key: value for key, value in OLD.items() if key != "seed"},
    ],
)
def test_model_data_seed_and_optimisation_are_not(new):
    assert len(refused_keys(OLD, new)) == 1
    with pytest.raises(ConfigChanged, match=r"was started with another config: .* -> .*\. Start anew with --fresh"):
        require_same_experiment(OLD, new, {})


def test_a_longer_cosine_is_allowed_and_its_effect_is_said():
    new = OLD | {"training": OLD["training"] | {"num_steps": 200}}
    assert require_same_experiment(OLD, new, {}) == (
        "training.num_steps 100 -> 200; the cosine rate follows the new length from here on"
    )
    assert require_same_experiment(OLD, OLD, {}) == ""


def test_a_key_that_the_checkpoint_is_too_old_to_have_had_its_default():
    """A run of an earlier version goes on, unless the new key asks for something new."""
    defaults = {"model": {"kind": "unet", "base_channels": 32}, "training": {"optimizer": "adamw"}, "weather": {}}
    new = OLD | {"model": OLD["model"] | {"kind": "unet"}, "weather": {}}
    new["training"] = OLD["training"] | {"optimizer": "adamw"}
    assert require_same_experiment(OLD, new, defaults) == ""
    new["training"] = OLD["training"] | {"optimizer": "muon"}
    with pytest.raises(ConfigChanged, match=r"training\.optimizer adamw -> muon"):
        require_same_experiment(OLD, new, defaults)


def test_retired_keys_of_an_old_checkpoint_are_ignored():
    old = OLD | {"model": OLD["model"] | {"mid_blocks": 1}, "training": OLD["training"] | {"part": "all"}}
    assert require_same_experiment(old, OLD, {}) == ""
