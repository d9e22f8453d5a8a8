"""docs/field.md names files, commands, options and settings that exist."""

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest

import restore_diff as rd
from restore_diff.commands.cli import COMMANDS
from restore_diff.config import load_config

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "field.md").read_text()
CODE = re.findall(r"`([^`]+)`", TEXT)
LINES = sorted({code for code in CODE if re.match(r"(python|restore-diff) ", code)})


def test_every_row_has_a_system_an_equation_a_paper_a_file_a_command_and_a_picture():
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in TEXT.splitlines() if line.startswith("| ")]
    assert len(rows) > 25
    assert all(len(row) == 6 and all(cell.strip() for cell in row) for row in rows)
    papers = [row[2] for row in rows if row[0].strip() not in ("system", "hub", "DDPM on small images")]
    assert all(re.search(r"arXiv \d{4}\.\d{5}", paper) for paper in papers)


def test_every_file_exists():
    files = [code for code in CODE if re.fullmatch(r"(restore_diff|examples|configs|docs)/[\w/]+\.\w+", code)]
    assert len(files) > 25
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("line", LINES)
def test_every_command_has_its_files_options_and_settings(line):
    words = shlex.split(line)
    if words[0] == "restore-diff":
        script = ROOT / "restore_diff/commands" / f"{COMMANDS[words[1]][0].partition(':')[0]}.py"
    elif words[1] == "train.py":
        script = ROOT / "restore_diff/commands/train.py"
        assert load_config([words[words.index("--cfg") + 1]], [word for word in words if "=" in word])
    else:
        script = ROOT / words[1]
    source = script.read_text()
    for option in (word for word in words if word.startswith("-")):
        assert f'"{option}"' in source, option


def test_every_call_of_python_has_its_arguments():
    calls = [ast.parse(code, mode="eval").body for code in CODE if code.startswith("rd.")]
    assert len(calls) == 2
    for call in calls:
        known = inspect.signature(getattr(rd, call.func.attr)).parameters
        assert {keyword.arg for keyword in call.keywords} <= known.keys()
