"""Mistakes in a configuration are all listed, with place and remedy; a printed configuration loads again."""

import subprocess
import sys
from pathlib import Path

import pytest

from restore_diff import build
from restore_diff.config import ConfigError, config_from_dict, find_config, load_config, to_dict, to_yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml"))


def write(folder: Path, text: str) -> str:
    path = folder / "x.yaml"
    path.write_text(text)
    return str(path)


def problems(files: list[str], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(files, overrides)
    return error.value.problems


def test_every_mistake_is_listed_with_its_place_and_the_nearest_known_name(tmp_path):
    file = write(tmp_path, "training:\n  num_stps: 5\n  batch_size: 0\nmodle: {}\ndiffusion: {weighting: snr}\n")
    listed = problems([file], "training.learning_rate=fast")
    assert len(listed) == 5
    text = "\n".join(listed)
    assert f"training.num_stps ({file}:2): unknown key; did you mean num_steps?" in text
    assert f"training.batch_size ({file}:3): input should be greater than or equal to 1, got 0" in text
    assert f"modle ({file}:4): unknown key; did you mean model?" in text
    assert "'none', 'snr_clamp' or 'p2', got 'snr'" in text
    assert "training.learning_rate (command line): input should be a valid number, got 'fast'" in text


def test_overrides_win_over_files_and_later_ones_over_earlier_ones(tmp_path):
    file = write(tmp_path, "training: {batch_size: 4}\nseed: 1\n")
    config = load_config([file], ["training.batch_size=8", "training.batch_size=16"])
    assert (config.training.batch_size, config.seed) == (16, 1)


def test_later_files_win_over_earlier_ones_key_by_key(tmp_path):
    first = write(tmp_path, "training: {batch_size: 4, learning_rate: 1.0}\n")
    second = tmp_path / "y.yaml"
    second.write_text("training: {batch_size: 5}\n")
    config = load_config([first, str(second)])
    assert (config.training.batch_size, config.training.learning_rate, config.name) == (5, 1.0, "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\tseed: 1", ":1: found character"),
        ("- 1", ":1: expected `section: ...` at the top"),
        ("seed: {", ":1: expected the node content"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path, text, expected):
    (line,) = problems([write(tmp_path, text)])
    assert expected in line


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in problems([str(tmp_path / "binary.yaml")])[0]
    assert "no such config file; did you mean derain.yaml?" in problems(["derane.yaml"])[0]


def test_scalars_keep_their_type(tmp_path):
    assert load_config([], ["training.learning_rate=1e-4"]).training.learning_rate == 1e-4
    config = load_config([], ["model.channel_multipliers=[1,2]", "model.attention_levels=[]"])
    assert config.model.channel_multipliers == (1, 2)
    for wrong in ("training.batch_size=1.5", "training.batch_size='12'", "training.compile=1", "seed=true"):
        assert len(problems([], wrong)) == 1


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data.crop_size_px=60", "model.channel_multipliers=[1,2,3,4]"], "data.crop_size_px"),
        (["tiling.tile_size_px=64", "tiling.tile_overlap_px=64"], "tiling.tile_overlap_px"),
        (["model.channel_multipliers=[1,2]", "model.attention_levels=[2]"], "model.attention_levels"),
        (["diffusion.snr_min=6.0"], "diffusion"),
        (["model.condition_channels=0", "diffusion.prediction=residual"], "diffusion.prediction"),
        (["training.batch_size=4", "training.num_micro_batches=3"], "training.num_micro_batches"),
        (["sampler.num_steps=2000"], "sampler.num_steps"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides, key):
    assert problems([], *overrides)[0].startswith(f"{key}: ")


def test_a_printed_config_loads_to_the_same_config(tmp_path):
    config = load_config(["derain.yaml"], ["training.batch_size=7", "training.num_micro_batches=1"])
    assert load_config([write(tmp_path, to_yaml(config))]) == config
    assert config_from_dict(to_dict(config)) == config


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_in_the_repository_is_valid(name):
    assert find_config(name).is_file()
    load_config([name])


@pytest.mark.parametrize("arguments", [["train.py", "--help"], ["test.py", "--help"], ["restore.py", "--help"]])
def test_help_and_mistakes_are_answered_without_importing_torch(arguments):
    code = f"import sys, runpy; sys.argv = {arguments!r}\ntry: runpy.run_path({arguments[0]!r}, run_name='__main__')\n"
    code += "except SystemExit as e: print(e.code)\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.weather=rein", "data.weather: unknown name 'rein'; did you mean rain?"),
        ("data.weather={rain+snwo: 1}", "data.weather: unknown name 'snwo'; did you mean snow?"),
        ("model.kind=unett", "model.kind: unknown name 'unett'; did you mean unet?"),
        ("schedule.name=cosin", "schedule.name: unknown name 'cosin'; did you mean cosine?"),
        ("diffusion.prediction=epsilonn", "diffusion.prediction: unknown name 'epsilonn'; did you mean epsilon?"),
        ("diffusion.loss=hubber", "diffusion.loss: unknown name 'hubber'; did you mean huber?"),
        ("model.options={width: 3}", "model.options: unet takes no options, got width"),
    ],
)
def test_a_name_is_checked_when_it_is_built_with_the_nearest_one(override, expected):
    config = load_config([], [override])
    with pytest.raises(ConfigError) as caught:
        build.renderer(config.data)
        build.network(config)
        build.diffusion(config)
    assert caught.value.problems[0].startswith(expected)
