"""Make tiny_run.py importable for the tests in this folder, and enter its folder."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A user's folder with pairs to train on and to test on."""
    from tiny_run import enter

    return enter(tmp_path, monkeypatch)
