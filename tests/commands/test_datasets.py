"""restore-diff datasets: the cards, the images on this disk, and where to get the rest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import write_pairs

from restore_diff.__main__ import main
from restore_diff.data.cards import find_cards


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A user's folder with three of the hundred test pairs of Rain100L."""
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "data/Rain100L", 3)
    return tmp_path


@pytest.fixture
def printed(here, capsys):
    def run(*argv: str) -> str:
        assert main(["datasets", *argv]) == 0
        captured = capsys.readouterr()
        assert not captured.err
        return captured.out

    return run


def test_the_table_has_found_and_published_counts_of_each_card(printed):
    lines = printed().splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1:] if line[:1].isalnum() and "counts:" not in line}
    assert rows.keys() == find_cards().keys()
    assert rows["rain100l"][1:4] == ["derain", "-/200", "3/100"]
    assert rows["weather"][1:4] == ["all_weather", "44", "12"]
    assert rows["snow100k_l"][1:4] == ["desnow", "-/50000", "-/16801"]
    assert rows["raindrop"][-3:] == ["research", "use", "https://github.com/rui1996/DeRaindrop"]
    assert "-/18069" in printed("--root", "elsewhere")


def test_one_card_is_printed_with_folders_caveats_and_problems(here, printed):
    lines = printed("rain100l").splitlines()
    assert lines[0] == "Rain100L (data.train=rain100l)" and "test      3/100 pairs" in lines
    assert any(line.startswith("note      Rain100L and Rain100H share all clean images") for line in lines)
    at = lines.index("train     -/200 pairs, not on this disk; expected")
    assert [line.strip() for line in lines[at + 1 : at + 3]] == [
        "Rain100L/train/input and Rain100L/train/target",
        "RainTrainL and RainTrainL",
    ]
    (here / "data/Rain100L/target/002.png").unlink()
    text = printed("rain100l")
    assert "test      -/100 pairs\n" in text and "PROBLEM data/Rain100L/input and data/Rain100L/target do" in text


def test_the_parts_of_a_mixture_and_the_missing_ones_are_printed(printed):
    text = printed("allweather_rendered")
    assert "          joins photographs/clean, weight 0.2, rendered raindrop\n" in text
    assert "PROBLEM allweather_rendered: 4 of its 4 parts cannot be used: allweather: not found below data" in text


def test_json_holds_the_same(printed):
    content = json.loads(printed("rain100l", "--json"))
    assert content["test"]["found"] == 3 and content["test"]["published"] == 100 and content["test"]["on_disk"]
    assert content["train"]["found"] == 0 and not content["train"]["on_disk"]
    assert json.loads(printed("--json")).keys() == find_cards().keys()


def test_a_wrong_name_and_a_card_with_mistakes_are_reported(here, capsys):
    assert main(["datasets", "rain100"]) == 2
    message = "rain100: no such card; did you mean rain100l or rain100h or rain12?"
    assert capsys.readouterr().err == f"restore-diff datasets: {message}\n"
    (here / "datasets").mkdir()
    (here / "datasets/mine.yaml").write_text("name: Mine\n")
    assert main(["datasets"]) == 2
    table, complaint = capsys.readouterr()
    assert complaint.startswith("restore-diff datasets: datasets/mine.yaml: citation: Field required; licence: ")
    assert complaint.count("\n") == 1 and "\nrain100l " in table and "mine" not in table.split()


def test_the_command_needs_no_torch(here):
    code = "import sys; sys.modules['torch'] = None; from restore_diff.__main__ import main; main(['datasets'])"
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "3/100" in done.stdout, done.stderr
