"""The list of deliberate mistakes stays true to the code (mutations.py sees each one caught)."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MUTATIONS = runpy.run_path(str(ROOT / "tests" / "mutations.py"))["mutations"]()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m[0]}:{m[1].strip()[:30]}")
def test_each_deliberate_mistake_can_still_be_planted(mutation):
    file, old, new, test = mutation
    assert (ROOT / file).read_text().count(old) == 1
    assert old != new
    path, _, name = test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text()


def test_the_list_has_the_classical_mistakes():
    assert len(MUTATIONS) > 90
