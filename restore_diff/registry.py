"""Named choices that a user's file can add to, and the loading of such files. Imports no torch."""

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from restore_diff.errors import UserError

Entry = TypeVar("Entry")

LOADED: dict[str, str] = {}
"""SHA-256 of each plugin file that this process has executed, by its resolved path."""


def choose(registry: Mapping[str, Entry], name: str, key: str) -> Entry:
    """Return `registry[name]`. Raises ValueError with `key` and the nearest known name."""
    if name in registry:
        return registry[name]
    raise ValueError(f"{key}: unknown name {name!r}; {nearest(name, registry)} (a plugin file can add names)")


def nearest(name: str, known: Collection[str]) -> str:
    """Return a hint for a message: the most similar of the known names, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"


def make(registry: Mapping[str, Any], name: str, key: str, options: Mapping[str, Any], *args: Any) -> Any:
    """Call the entry `name` with `args` and, if it declares a dataclass `Settings`, with its validated options.

    Raises ValueError with `key`, the setting that names the entry, for an unknown name and for options that do not fit.
    """
    entry = choose(registry, name, key)
    declared = getattr(entry, "Settings", None)
    section, _, field = key.rpartition(".")
    where = f"{section}.{'guidance_options' if field == 'guidance' else 'options'}"
    if declared is not None:
        return entry(*args, parse_options(declared, options, where))
    if options:
        raise ValueError(f"{where}: {name} takes no options, got {', '.join(options)}")
    return entry(*args)


def parse_options(declared: type[Entry], values: Mapping[str, Any], key: str) -> Entry:
    """Validate plain values as the settings dataclass `declared`. Raises ValueError that lists every mistake."""
    try:
        return TypeAdapter(declared).validate_python(dict(values))
    except ValidationError as error:
        mistakes = [f"{'.'.join([key, *map(str, m['loc'])])}: {_mistake(declared, m)}" for m in error.errors()]
        raise ValueError("; ".join(mistakes)) from None


def _mistake(declared: type, mistake: Any) -> str:
    if mistake["type"] != "unexpected_keyword_argument":
        return f"{mistake['msg'][0].lower()}{mistake['msg'][1:]}, got {mistake['input']!r}"
    return f"unknown key; {nearest(str(mistake['loc'][-1]), getattr(declared, '__dataclass_fields__', {}))}"


def load_plugins(files: Iterable[str], folders: Iterable[Path] = ()) -> None:
    """Execute each Python file once per process. A relative path is looked for here, then in `folders`.

    Raises UserError for a file that does not exist, or that raises.
    """
    for name in files:
        found = next((path for path in (Path(name), *(f / name for f in folders)) if path.is_file()), None)
        if found is None:
            raise UserError(f"plugins: {name}: no such file")
        path = str(found.resolve())
        if path in LOADED:
            continue
        spec = importlib.util.spec_from_file_location(found.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(found.stem, module)  # so that what it defines can be pickled for data workers
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise UserError(f"plugins: {name} raised {type(error).__name__}: {error}") from error
        LOADED[path] = hashlib.sha256(found.read_bytes()).hexdigest()
