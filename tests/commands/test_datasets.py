"""python -m restore_diff datasets: the cards, what is here, where to get the rest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import write_pairs

from restore_diff.__main__ import main
from restore_diff.data.cards import find_cards

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A user's folder with three of the hundred test pairs of Rain100L."""
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "data/Rain100L", 3)
    return tmp_path


def printed(capsys, *argv: str) -> str:
    assert main(["datasets", *argv]) == 0
    captured = capsys.readouterr()
    assert not captured.err
    return captured.out


def test_the_table_has_a_line_for_each_card_with_what_is_here_of_what_is_published(here, capsys):
    lines = printed(capsys).splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1:] if line[:1].isalnum() and "counts:" not in line}
    assert rows.keys() == find_cards().keys()
    assert rows["rain100l"][1:4] == ["derain", "-/200", "3/100"]
    assert rows["weather"][1:4] == ["all_weather", "44", "12"]
    assert rows["snow100k_l"][1:4] == ["desnow", "-/50000", "-/16801"]
    assert rows["raindrop"][-3:] == ["research", "use", "https://github.com/rui1996/DeRaindrop"]
    assert "-/18069" in printed(capsys, "--root", "elsewhere")


def test_one_card_is_told_with_its_folders_and_caveats(here, capsys):
    lines = printed(capsys, "rain100l").splitlines()
    assert lines[0] == "Rain100L (data.train=rain100l)" and "test      3/100 pairs" in lines
    assert any(line.startswith("note      Rain100L and Rain100H share all clean images") for line in lines)
    at = lines.index("train     -/200 pairs, not on this disk; expected")
    assert lines[at + 1 : at + 3] == [
        "          Rain100L/train/input and Rain100L/train/target",
        "          RainTrainL and RainTrainL",
    ]


def test_the_parts_of_a_mixture_are_told_and_what_is_missing_of_them(here, capsys):
    text = printed(capsys, "allweather_rendered")
    assert "          joins photographs/clean, weight 0.2, rendered raindrop\n" in text
    assert "PROBLEM allweather_rendered: 4 of its 4 parts cannot be used: allweather: not found below data" in text


def test_json_holds_the_same(here, capsys):
    content = json.loads(printed(capsys, "rain100l", "--json"))
    assert content["test"]["found"] == 3 and content["test"]["published"] == 100 and content["test"]["on_disk"]
    assert content["train"]["found"] == 0 and not content["train"]["on_disk"]
    assert json.loads(printed(capsys, "--json")).keys() == find_cards().keys()


def test_what_is_here_and_does_not_fit_is_told(here, capsys):
    (here / "data/Rain100L/target/002.png").unlink()
    lines = printed(capsys, "rain100l").splitlines()
    assert any(line.startswith("          PROBLEM data/Rain100L/input and data/Rain100L/target do") for line in lines)
    assert "test      -/100 pairs" in lines


def test_a_wrong_name_or_a_card_with_mistakes_is_told_in_one_line(here, capsys):
    assert main(["datasets", "rain100"]) == 2
    assert capsys.readouterr().err == (
        "restore_diff datasets: rain100: no such card; did you mean rain100l or rain100h or rain12?\n"
    )
    (here / "datasets").mkdir()
    (here / "datasets/mine.yaml").write_text("name: Mine\n")
    assert main(["datasets"]) == 2
    table, complaint = capsys.readouterr()
    assert complaint.startswith("restore_diff datasets: datasets/mine.yaml: citation: Field required; licence: ")
    assert complaint.count("\n") == 1 and "\nrain100l " in table and "mine" not in table.split()


def test_the_table_needs_no_torch(here):
    code = "import sys; from restore_diff.__main__ import main; main(['datasets']); sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0
