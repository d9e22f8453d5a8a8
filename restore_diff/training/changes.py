"""May this config go on from that checkpoint?"""

import json
from typing import Any

HARMLESS = (
    "name",
    "data.root",
    "data.num_workers",
    "data.cache_mib",
    "data.on_bad",
    "training.num_steps",
    "training.compile",
    "training.num_micro_batches",
    "training.log_every_steps",
    "training.validate_every_steps",
    "training.save_every_steps",
    "training.num_checkpoints_kept",
    "sampler",
    "tiling",
    "evaluation",
)
"""Keys, or whole sections, that change speed, length or reports, but not what a training step does beyond rounding.

`training.num_steps` stretches a cosine rate, which then follows the new length from the resumed step on: allowed,
because to train longer is what people ask for, and said aloud.
"""


class ConfigChanged(ValueError):
    """The config would make another experiment of a run that has begun."""


def changed_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ, e.g. `model.base_channels`, also those that only one of the two has."""
    before, after = _flat(json.loads(json.dumps(old))), _flat(json.loads(json.dumps(new)))
    absent = object()
    return sorted(key for key in before | after if before.get(key, absent) != after.get(key, absent))


def refused_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The changed keys that are not harmless."""
    return [key for key in changed_keys(old, new) if not any(key == h or key.startswith(f"{h}.") for h in HARMLESS)]


def describe_changes(keys: list[str], old: dict[str, Any], new: dict[str, Any]) -> str:
    """`model.base_channels 64 -> 96, seed 0 -> 1`; of many keys the first ten."""
    before, after = _flat(old), _flat(new)
    told = [f"{key} {_shown(before.get(key, 'absent'))} -> {_shown(after.get(key, 'absent'))}" for key in keys[:10]]
    return ", ".join(told) + (f" and {len(keys) - 10} more" if len(keys) > 10 else "")


def require_same_experiment(old: dict[str, Any], new: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Raise ConfigChanged where `new` may not continue `old`; otherwise describe the harmless changes, "" for none.

    A key that `old` lacks, because its program did not know it yet, has the value of `defaults`: what it did then.
    """
    old = _filled(old, defaults)
    refused = refused_keys(old, new)
    if refused:
        changes = describe_changes(refused, old, new)
        raise ConfigChanged(f"this run was started with another config: {changes}. Start anew with --fresh")
    changed = changed_keys(old, new)
    text = describe_changes(changed, old, new)
    if "training.num_steps" in changed and new.get("training", {}).get("learning_rate_decay") == "cosine":
        text += "; the cosine rate follows the new length from here on"
    return text


def _filled(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Down to the keys of sections; a key that is there keeps its value, empty or not."""
    filled = defaults | values
    for key, default in defaults.items():
        if isinstance(default, dict) and default and isinstance(filled[key], dict):
            filled[key] = _filled(filled[key], default)
    return filled


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
