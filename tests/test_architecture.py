"""Imports point one way: an area knows only what stands below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "restore_diff"
LEAVES = {"errors", "tensors", "labels", "settings", "registry", "randomness", "files", "environment"}
MAY_IMPORT = {
    "errors": set(),
    "tensors": set(),
    "labels": {"randomness"},
    "settings": set(),
    "registry": {"errors"},
    "randomness": set(),
    "files": set(),
    "environment": {"registry"},
    "distributed": LEAVES,
    "checkpoint": LEAVES,
    "diffusion": LEAVES,
    "models": LEAVES,
    "data": LEAVES | {"weather"},
    "weather": LEAVES | {"data"},
    "metrics": LEAVES,
    "training": LEAVES | {"checkpoint", "distributed", "diffusion"},
    "restoration": LEAVES | {"diffusion", "data"},
    "evaluation": LEAVES | {"distributed", "restoration", "metrics", "data"},
    "config": {"errors", "settings", "registry", "files"},
    "trained": LEAVES | {"checkpoint", "config", "diffusion", "models", "restoration"},
    "build": LEAVES | {"trained", "config", "data", "diffusion", "evaluation", "metrics", "weather"},
    "interop": LEAVES | {"checkpoint", "config", "diffusion", "models"},
    "doctor": LEAVES | {"build", "trained", "config", "data", "models"},
    "app": LEAVES | {"trained", "data", "restoration", "commands"},
    "api": LEAVES | {"build", "trained", "checkpoint", "config", "diffusion", "evaluation", "interop", "commands"},
}
"""Areas, and modules at the top, by what they may import. `commands` may import everything."""
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The restore_diff modules that a file imports, dotted, without the package's own name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("restore_diff.") for name in names if name.startswith("restore_diff.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    area = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if area in ("__init__", "__main__", "commands"):
        return
    for name in imported(path):
        other = name.split(".")[0]
        allowed = other in (area, "__version__") or other in MAY_IMPORT[area]
        assert allowed, f"{path.relative_to(PACKAGE)} imports restore_diff.{name}"


def test_the_rule_sees_a_wrong_import(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("from restore_diff.metrics.protocols import Protocol\n")
    assert imported(file) == {"metrics.protocols.Protocol"}
    assert "metrics" not in MAY_IMPORT["training"]


def test_files_and_functions_are_short_enough_to_be_read():
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 500, path
        functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
        for function in functions:
            doc = len((ast.get_docstring(function, clean=False) or "").splitlines())
            lines = (function.end_lineno or 0) - function.lineno + 1 - doc
            assert lines <= 40, f"{path.name}: {function.name} has {lines} lines"


def test_no_file_names_a_device_in_the_mathematics():
    for area in ("diffusion", "models"):
        for path in (PACKAGE / area).rglob("*.py"):
            assert '"cuda' not in path.read_text(), path
