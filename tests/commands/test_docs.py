"""The documentation: its commands run, its pages are in the site, and every public name has an entry."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from tiny_run import enter, run_train, write_pairs

import restore_diff
from restore_diff.commands import cli

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COMMAND = re.compile(r"(?:restore-diff|python|torchrun .*?) +(export \w+|[\w-]+)(?:\.py)?(?: +(.*))?")
SLOW = ("torchrun", "export onnx", "import-ckpt", "restore-diff app", "/data", "--card", "runs/prior")
"""Parts of commands that start several processes, take minutes, or need files that no test makes."""


def commands() -> list[str]:
    """Commands in code blocks of the README and of docs/, without comments and the brackets of optional parts."""
    found = []
    for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))):
        text = page.read_text().replace("\\\n", " ")
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [*re.findall(r"^ {4}(.*)", text, re.MULTILINE), *"\n".join(blocks).splitlines()]
        found += [re.sub(r"[\[\]]|\s+#.*", "", line).strip() for line in lines]
    matching = dict.fromkeys(line for line in found if COMMAND.fullmatch(line))
    return [line for line in matching if line.startswith("restore-diff") or _name(line) in cli.COMMANDS]


def _name(command: str) -> str:
    match = COMMAND.fullmatch(command)
    assert match is not None
    return match[1].split()[0]


def arguments(command: str) -> list[str]:
    match = COMMAND.fullmatch(command)
    assert match is not None
    return [*match[1].split(), *shlex.split(match[2] or "")]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with everything that the commands name."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = enter(tmp_path_factory.mktemp("docs"), monkeypatch)
        for name in ("PATH", "TRAIN", "TEST", "PAIRS", "my_pairs", "my_photos", "rain"):
            write_pairs(folder / name, 4, first=10 * len(name))
        write_pairs(folder / "data/Rain100L", 3, names=("input/{}", "target/{}"))
        for name, source in {"INPUT": "input", "TARGET": "target", "FOLDER": "target"}.items():
            shutil.copytree(folder / "tests" / source, folder / name)
        for name in ("photos", "clean"):
            shutil.copytree(folder / "tests/target", folder / name)
        assert run_train("name=base", "model.unshuffle=1") == 0
        assert run_train("name=derain") == 0
        shutil.rmtree(folder / "pairs")
    return folder


@pytest.mark.parametrize("command", commands())
def test_a_command_in_the_docs_has_valid_arguments_written_in_full(command):
    name, *given = arguments(command)
    parser = cli._function(name, "parser")()
    parser.parse_intermixed_args(given)
    written = {option.partition("=")[0] for option in given if option.startswith("--")}
    assert written <= set(re.findall(r"--[\w-]+", parser.format_help()))


@pytest.mark.long
@pytest.mark.parametrize("command", [command for command in commands() if not any(part in command for part in SLOW)])
def test_a_command_in_the_docs_runs(command, here, monkeypatch):
    monkeypatch.chdir(here)
    monkeypatch.setenv("TORCH_HOME", str(here / "torch"))
    name, *given = arguments(command)
    dry_run = ["--dry-run", "--device", "cpu", "data.on_small=pad"] if name == "train" else []
    assert cli.main([name, *given, *dry_run]) == 0


def test_the_docs_name_commands():
    assert len(commands()) >= 20
    assert {"train", "test", "restore", "doctor", "render"} <= {_name(command) for command in commands()}


def pages(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in pages(entry)]


def test_the_site_shows_every_page_of_the_docs():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert written ^ set(pages(config["nav"])) == set(), "each page needs a line under nav in mkdocs.yml"


def test_the_images_of_the_docs_exist():
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / image).is_file(), f"{page}: {image}"


def test_every_public_name_has_an_entry_in_the_api():
    documented = re.findall(r"^::: restore_diff\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(restore_diff.__all__)
