"""Imports point one way: an area knows only what stands below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "restore_diff"
LEAVES = {"tensors", "hints", "schema", "randomness", "files", "provenance", "memory"}
MAY_IMPORT = {
    "tensors": set(),
    "hints": {"randomness"},
    "schema": set(),
    "randomness": set(),
    "files": set(),
    "provenance": set(),
    "memory": set(),
    "config_source": {"files"},
    "diffusion": LEAVES,
    "models": LEAVES,
    "data": LEAVES,
    "metrics": LEAVES,
    "training": LEAVES | {"diffusion"},
    "restoration": LEAVES | {"diffusion", "data"},
    "evaluation": LEAVES | {"restoration", "metrics", "data"},
    "config": {"schema", "config_source"},  # and the areas' config.py, checked below
    "build": LEAVES | {"config", "diffusion", "models", "data", "metrics", "training", "restoration", "evaluation"},
    "trained": LEAVES | {"build", "dial", "config", "data", "models", "restoration", "training"},
    "dial": {"build", "config"},
    "interop": LEAVES | {"config", "models", "training"},
    "doctor": LEAVES | {"build", "config", "data", "models"},
    "commands": LEAVES
    | {"build", "dial", "trained", "interop", "config", "data", "doctor", "evaluation", "restoration", "training"},
}
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
    if area in ("__init__", "__main__"):
        return
    for name in imported(path):
        other = name.split(".")[0]
        if other in (area, "__version__"):
            continue
        settings_only = area == "config" and name.split(".")[-2] == "config"
        assert other in MAY_IMPORT[area] or settings_only, f"{path.relative_to(PACKAGE)} imports restore_diff.{name}"


def test_the_rule_sees_a_wrong_import(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("from restore_diff.metrics.fidelity import psnr\n")
    assert imported(file) == {"metrics.fidelity.psnr"}
    assert "metrics" not in MAY_IMPORT["training"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_holds_one_idea_in_at_most_250_lines(path):
    assert len(path.read_text().splitlines()) <= 250


def test_no_file_names_a_device_in_the_mathematics():
    for area in ("diffusion", "models"):
        for path in (PACKAGE / area).rglob("*.py"):
            assert '"cuda' not in path.read_text(), path
