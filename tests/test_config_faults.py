"""Config files that are broken, hostile, or read by YAML otherwise than people mean them."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from restore_diff.commands.train import main
from restore_diff.config import ConfigError, load_config, repeated_overrides

ROOT = Path(__file__).resolve().parent.parent
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(f'*{a}' for _ in range(9))}]\n" for a, b in
                                             zip("abcdefg", "bcdefgh", strict=True))  # fmt: skip
DOUBLING = "".join(f"k{number}: ${{k{number + 1}}}${{k{number + 1}}}\n" for number in range(40)) + "k40: x\n"


def problems(text: str, folder: Path, *overrides: str) -> list[str]:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config([str(path)], overrides)
    assert all(line.isprintable() and len(line) < 500 for line in error.value.problems)
    return error.value.problems


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "x.yaml:2: YAML aliases are not supported"),
        ("a: &a [*a]", "x.yaml:1: YAML aliases are not supported"),
        ("seed: ${seed}", "'${seed}' refers to another value, which is not supported"),
        (DOUBLING, "'${k1}${k1}' refers to another value"),
        ("seed: " + "[" * 200_000, "no config has more than 16 levels"),
        ("seed: " + "{a: " * 50_000, "no config has more than 16 levels"),
        ("? " * 100_000, "no config has more than 16 levels"),
        (f"seed: [{'1,' * 100_000}]", "or 5000 values"),
        ("".join(f"k{number}: 1\n" for number in range(20_000)), "or 5000 values"),
        ("seed: " + "9" * 200_000, "is no plain number"),
        ("seed: 0x" + "f" * 200_000, "is no plain number"),
    ],
)
def test_a_file_that_unfolds_is_refused_at_once(tmp_path, text, told):
    started = time.process_time()
    (line,) = problems(text, tmp_path)
    assert told in line
    assert time.process_time() - started < 2


def test_fifty_megabytes_are_refused_unread_and_in_little_memory(tmp_path):
    (tmp_path / "x.yaml").write_text("# " + "x" * 50_000_000)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))

    command = [sys.executable, str(ROOT / "train.py"), "--cfg", "x.yaml", "--print-config"]
    done = subprocess.run(command, cwd=tmp_path, preexec_fn=limited, capture_output=True, text=True, check=False)
    told = "train.py: x.yaml: 50000002 bytes is no config file (at most 262144)\n"
    assert (done.returncode, done.stderr) == (2, told)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [ls]", "!!binary aGk=", "!!float x", "!!bool x", "!x y"]
)
def test_tags_name_no_code_and_no_type(tmp_path, tag):
    assert "x.yaml:1: YAML tags are not supported, got " in problems(f"seed: {tag}", tmp_path)[0]


def test_what_other_tools_instantiate_is_an_unknown_key(tmp_path):
    (line,) = problems("model: {_target_: os.system}", tmp_path)
    assert "model._target_ (" in line
    assert ": unknown key; " in line


@pytest.mark.parametrize("value", ["12:30", "1:30:15", "0777", "1_000", "1_0.5", "-012"])
def test_what_yaml_reads_otherwise_than_people_is_refused(tmp_path, value):
    assert f"x.yaml:1: {value} is no plain number" in problems(f"seed: {value}", tmp_path)[0]
    assert f"seed={value}:1: {value} is no plain number" in problems("", tmp_path, f"seed={value}")[0]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("training.learning_rate", "1e-4", 1e-4),
        ("training.compile", "on", True),
        ("data.train", "'12:30'", "12:30"),
        ("data.train", "2024-01-31", "2024-01-31"),
        ("seed", "0", 0),
        ("diffusion.huber_delta", "0.5", 0.5),
    ],
)
def test_the_declared_type_decides_what_a_scalar_is(key, value, expected):
    section, _, name = key.rpartition(".")
    config = load_config([], [f"{key}={value}"])
    assert getattr(getattr(config, section) if section else config, name) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ""),
        ("seed: 1\n---\nseed: 2\n", "x.yaml:2: but found another document"),
        ('"a\\nb": 1', "a\\nb (x.yaml:1): unknown key"),
        ('data: {"a\\nb": 1, "a\\nb": 2}', "x.yaml:1: found duplicate key a\\nb"),
        ("null: 1", "Incompatible key type"),
        ("[1]: 2", "x.yaml:1: found unhashable key"),
        ("seed: \0", "special characters are not allowed"),
        ("data: null", "data (x.yaml:1): input should be an object, got None"),
        ("training: {learning_rate: .nan}", "finite numbers"),
        (f"name: {'x' * 101}", "name (x.yaml:1): up to 100 letters"),
        (f"seed: {'x' * 200_000}", "..."),
    ],
)
def test_each_kind_of_broken_file_has_its_line(tmp_path, monkeypatch, text, told):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(text, encoding="utf-8")
    if not told:
        assert load_config(["x.yaml"]).name == "x"
        return
    with pytest.raises(ConfigError) as error:
        load_config(["x.yaml"])
    (line,) = error.value.problems
    assert told in line
    assert len(line) < 500
    assert line.isprintable()


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "nul\0", "..", "/dev/null", "/dev/zero"])
def test_a_path_that_is_no_file_is_told_in_one_line(name, capsys):
    assert main(["--cfg", name, "--print-config"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no such config file" in line


def test_a_pipe_is_no_config(tmp_path):
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="no such config file"):
        load_config([str(tmp_path / "x.yaml")])


def test_an_override_is_one_value():
    with pytest.raises(ConfigError, match="more than one value"):
        load_config([], ["seed=1\nname: x"])
    with pytest.raises(ConfigError) as error:
        load_config([], ["seed=[" + "x" * 1000])
    assert len(str(error.value)) < 300


def test_of_a_key_that_is_given_twice_the_last_counts_and_that_is_said():
    assert repeated_overrides(["seed=1", "name=x"]) == []
    twice = ["seed=1", "name=x", "seed=2", "seed=3"]
    assert load_config([], twice).seed == 3
    assert repeated_overrides(twice) == ["seed is given more than once; 3 counts"]


@pytest.mark.parametrize("argument", ["training.num_steps", "training.num_steps=", "=3", "a..b=1", "a b=3", "é-=1"])
def test_a_malformed_override_ends_with_2_and_the_right_form(argument, capsys):
    assert main(["--cfg", "derain.yaml", "--print-config", argument]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"train.py: {argument}: expected section.key=value, e.g. training.learning_rate=1e-4"


def test_an_option_that_was_meant_as_an_override_ends_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--cfg", "derain.yaml", "--lr", "3"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --lr" in capsys.readouterr().err
