"""render as a user meets it: photographs in, pairs out that the rest of the program reads, and what goes wrong."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restore_diff import build
from restore_diff.commands import render, rendering
from restore_diff.commands.contact_sheet import HEIGHT_PX, PLACES, WIDTH_PX, rows_of_settings
from restore_diff.config import load_config
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.loading import PairedImageDataset
from restore_diff.data.names import DataError, PairPath
from restore_diff.data.pairs import find_pairs
from restore_diff.settings import COMBINATIONS, DataConfig, HazeConfig, RainConfig, range_names

ROOT = Path(__file__).resolve().parents[2]
DENSE = "data.rain.density=[0.02,0.03]"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def photograph(path: str, height: int = 24, width: int = 32) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(sum(path.encode()))
    Image.fromarray(random.integers(0, 200, (height, width, 3), dtype=np.uint8)).save(path)
    return Path(path)


def run(*more: str, source: str = "photos", output: str = "out", weather: str = "rain") -> int:
    return render.main(["-i", source, "-o", output, "--weather", weather, "--device", "cpu", DENSE, *more])


def contents(folder: str) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*.png")}


def found(folder: str) -> dict[str, Path]:
    """The clean photograph's file by the name of each picture."""
    return {pair.name: pair.clean for pair in find_pairs(folder, "train", Path()).pairs}


def test_pairs_are_read_back_and_are_what_training_would_have_rendered(capsys):
    sources = {"a": photograph("photos/a.png"), "sub/b": photograph("photos/sub/b.bmp", 40, 30)}
    assert run() == 0
    assert capsys.readouterr().out.endswith("rendered 2, skipped 0, failed 0 -> out\n")
    pairs = find_pairs("out", "train", Path())
    assert [pair.name for pair in pairs.pairs] == list(sources)
    written = PairedImageDataset(pairs, None, seed=0)
    config = load_config([], ["data.weather=rain", DENSE])
    for pair in written:
        assert torch.equal(pair.clean, read_rgb_uint8(sources[pair.name]).float() / 255)
        assert (pair.degraded - pair.clean).max() > 0.1
    photographs = find_pairs("photos", "train", Path())
    rendered = build.images(config, photographs)[0]
    torch.testing.assert_close(written[0].degraded, rendered.degraded, atol=1.01 / 255, rtol=0)


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b"],
        ["a", "a_0", "a_0_1"],
        ["rain-1", "rain-2"],
        ["norain-1", "norain-2"],
        ["0_rain", "1_clean"],
        ["1", "1_gt"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("copies", [1, 3])
def test_every_copy_finds_its_own_photograph_whatever_its_name(names: list[str], copies: int):
    for name in names:
        photograph(f"photos/{name}.png")
    assert run("--copies", str(copies), "-q") == 0
    expected = {name if copies == 1 else f"{name}_{copy}": name for name in names for copy in range(copies)}
    assert {name: clean.stem for name, clean in found("out").items()} == expected
    assert len(set(contents("out/input").values())) == len(expected)


def test_what_is_done_is_skipped_and_what_is_missing_comes_out_the_same(capsys):
    for name in "abc":
        photograph(f"photos/{name}.png")
    assert run("--copies", "2", "--limit", "2") == 0
    assert sorted(contents("out/target")) == ["a.png", "b.png"]
    before = contents("out")
    times = {path: Path("out", path).stat().st_mtime_ns for path in before}
    Path("out/input/a_1.png").unlink()
    Path("out/target/b.png").unlink()
    assert run("--copies", "2") == 0
    assert "rendered 5, skipped 1, failed 0" in capsys.readouterr().out
    assert before.items() < contents("out").items()
    assert Path("out/input/a_0.png").stat().st_mtime_ns == times["input/a_0.png"]
    Path("out/input/a_0.png").write_bytes(b"other")
    assert run("--copies", "2", "--overwrite") == 0
    assert before.items() < contents("out").items()


def test_a_picture_depends_on_the_seed_and_its_name_alone():
    for name in "abc":
        photograph(f"photos/{name}.png")
    assert run("-q") == 0
    assert run("-q", source="photos/b.png", output="alone") == 0
    assert contents("alone").items() < contents("out").items()
    assert run("-q", "--seed", "1", output="other") == 0
    assert contents("other/target") == contents("out/target")
    assert all(contents("other/input")[name] != content for name, content in contents("out/input").items())


def test_bad_photographs_are_listed_and_the_others_rendered(capsys):
    photograph("photos/a.png")
    Path("photos/b.png").write_text("no image")
    photograph("photos/c.png")
    assert run() == 3
    printed = capsys.readouterr()
    assert "rendered 2, skipped 0, failed 1" in printed.out
    assert "photos/b.png: not an image" in printed.err and "Traceback" not in printed.err
    assert list(found("out")) == ["a", "c"]


def test_pictures_of_other_settings_are_not_mixed(capsys):
    photograph("photos/a.png")
    assert run() == 0
    before = contents("out")
    for change in (["--seed", "3"], ["--copies", "2"], ["data.rain.veil=[0.1,0.2]"]):
        assert run("--overwrite", *change) == 2
        assert "other settings" in capsys.readouterr().err
    assert run(weather="haze") == 2
    assert contents("out") == before
    photograph("foreign/target/a.png")
    assert run(output="foreign") == 2
    assert "foreign/target is there" in capsys.readouterr().err
    Path("out/render.json").write_text("{")
    assert run() == 2
    assert "damaged" in capsys.readouterr().err


def test_the_record_says_what_the_pictures_depend_on():
    photograph("photos/a.png")
    assert run("--seed", "5", weather="rain+haze") == 0
    record = json.loads(Path("out/render.json").read_text(), parse_constant=pytest.fail)
    settings = record["settings"]
    assert (settings["seed"], settings["copies"], settings["weather"]) == (5, 1, "rain+haze")
    assert settings["rain"]["density"] == [0.02, 0.03] and {"haze", "camera"} < set(settings)
    assert record["environment"]["versions"]["restore_diff"]


@pytest.mark.parametrize(
    ("source", "output"),
    [("photos", "photos"), ("photos", "photos/out"), ("photos/a.png", "photos/a.png"), ("linked", "photos/out")],
)
def test_an_output_inside_of_the_input_is_refused(source: str, output: str, capsys):
    photograph("photos/a.png")
    Path("linked").symlink_to("photos")
    assert run(source=source, output=output) == 2
    assert "outside of the photographs" in capsys.readouterr().err
    assert [path.name for path in Path("photos").iterdir()] == ["a.png"]


def test_its_own_targets_are_no_input(capsys):
    photograph("out/target/a.png")
    assert run(source="out/target") == 2
    assert "choose another -o" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data.rain.densty=[0.1,0.2]"], "data.rain.densty (command line): unknown key; did you mean density?"),
        (["data.rain.density=[0.2,0.1]"], "data.rain.density"),
        (["data.rain.textures=nowhere"], "no such folder of textures"),
        (["-i", "nowhere"], "no such file or folder: nowhere"),
        (["-i", "empty"], "0 images under empty"),
        (["--depth", "empty"], "--depth is for haze"),
        (["--device", "cuda:99"], "cuda:99"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], said: str, capsys):
    photograph("photos/a.png")
    Path("empty").mkdir()
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not Path("out").exists()


def test_what_to_render_must_be_said(capsys):
    photograph("photos/a.png")
    assert render.main(["-i", "photos", "-o", "out"]) == 2
    assert "--weather rain" in capsys.readouterr().err
    assert render.main(["-i", "photos", "-o", "out", "data.weather=haze", "-q"]) == 0


def test_a_dry_run_writes_nothing(capsys):
    photograph("photos/a.png")
    assert run("--dry-run", "--copies", "2") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "photos/a.png -> out/input/a_0.png",
        "photos/a.png -> out/input/a_1.png",
        "would render 2, skip 0 that are there",
    ]
    assert not Path("out").exists()


def test_haze_follows_the_depth_maps(capsys):
    for name in "abc":
        photograph(f"photos/{name}.png")
    ramp = np.tile(np.arange(32, dtype=np.uint16) * 2000, (24, 1))
    Path("depth").mkdir()
    Image.fromarray(ramp).save("depth/a.png")
    Image.fromarray(ramp[:, :30]).save("depth/b.png")
    plain = ["data.haze.beta=[2,2]", "data.haze.tint=[0,0]", "data.haze.unevenness=[0,0]", "data.haze.airlight=[1,1]"]
    assert run("--depth", "depth", *plain, weather="haze") == 3
    printed = capsys.readouterr().err
    assert "b: the photograph and its depth map have different sizes, 32x24 and 30x24" in printed
    assert "c: it has no depth map" in printed
    (pair,) = PairedImageDataset(find_pairs("out", "train", Path()), None, seed=0)
    distance = torch.from_numpy(ramp.astype(np.float32)) / ramp.max()
    expected = 1 - (1 - pair.clean) * torch.exp(-2 * distance)
    torch.testing.assert_close(pair.degraded, expected, atol=0.51 / 255, rtol=0)


def test_all_draws_each_weather():
    for number in range(30):
        photograph(f"photos/{number}.png")
    assert run("-q", "--dry-run", weather="all") == 0
    config = load_config([], render._overrides(render._parse(["-i", "a", "-o", "b", "--weather", "all"])))
    assert set(config.data.weather) == set(COMBINATIONS) and set(config.data.weather.values()) == {1.0}


def test_a_full_disk_ends_the_run(monkeypatch, capsys):
    for name in "abc":
        photograph(f"photos/{name}.png")

    def full(path, pixels):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(rendering, "write_image", full)
    assert run() == 3
    printed = capsys.readouterr()
    assert "the disk is full" in printed.err and printed.err.count("No space") == 0


def test_ctrl_c_leaves_whole_pairs_and_the_same_command_goes_on(monkeypatch, capsys):
    for name in "abc":
        photograph(f"photos/{name}.png")

    def impatient(path):
        if path.name == "b.png":
            raise KeyboardInterrupt
        return read_rgb_uint8(path)

    with monkeypatch.context() as patched:
        patched.setattr(rendering, "read_rgb_uint8", impatient)
        assert run() == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert list(found("out")) == ["a"]
    assert run() == 0
    assert "rendered 2, skipped 1" in capsys.readouterr().out


def test_pairs_are_scored_without_the_textures_that_others_were_rendered_from():
    pairs = [PairPath(Path("a_rain.png"), Path("a.png"), "a_rain")]
    config = DataConfig(weather="rain", rain=RainConfig(textures="nowhere"))
    assert build.renderer(config, pairs) is None
    with pytest.raises(DataError, match="nowhere"):
        build.renderer(config, [*pairs, PairPath(None, Path("b.png"), "b")])


def test_help_and_mistakes_need_no_torch():
    code = (
        "import sys; from restore_diff.commands.render import main\n"
        "assert main(['-i', 'x', '-o', 'y', 'data.rain.densty=1']) == 2\n"
        "assert 'torch' not in sys.modules\n"
        "main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["-i", "x"], ["-o", "y"], ["-i", "x", "-o", "y", "--weather", "fog"]])
def test_malformed_arguments_end_with_exit_code_2(arguments: list[str], capsys):
    with pytest.raises(SystemExit) as end:
        render.main(arguments)
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(("weather", "settings"), [("rain", RainConfig()), ("haze", HazeConfig())])
def test_a_contact_sheet_has_a_row_for_each_range_from_its_low_to_its_high_end(weather, settings):
    rows = rows_of_settings(DataConfig(weather=weather), seed=7)
    assert [row[0].caption.split()[0] for row in rows] == [f"{weather}.{name}" for name in range_names(settings)]
    for row, name in zip(rows, range_names(settings), strict=True):
        low, high = getattr(settings, name)
        shown = [getattr(tile.config, weather) for tile in row]
        assert [getattr(each, name) for each in shown] == [
            pytest.approx((low + place * (high - low),) * 2) for place in (0, 0.25, 0.5, 0.75, 1)
        ]
        for other in set(range_names(settings)) - {name}:
            middle = sum(getattr(settings, other)) / 2
            assert all(getattr(each, other) == pytest.approx((middle, middle)) for each in shown)
        assert {tile.seed for tile in row} == {7}


def test_a_contact_sheet_of_several_weathers_shows_the_settings_of_all():
    both = rows_of_settings(DataConfig(weather="rain+haze"), seed=0)
    mixed = rows_of_settings(DataConfig(weather={"rain": 1, "rain+haze": 2}), seed=0)
    expected = len(range_names(RainConfig())) + len(range_names(HazeConfig()))
    assert len(both) == len(mixed) == expected
    assert {row[0].config.weather for row in both} == {"rain+haze"}
    for tile in (tile for row in both for tile in row):
        ends = [getattr(each, name) for each in (tile.config.rain, tile.config.haze) for name in range_names(each)]
        assert all(low == high for low, high in ends), f"{tile.caption}: the others stand still"
    assert [row[0].config.weather for row in mixed] == [row[0].caption.split(".")[0] for row in mixed]


@pytest.mark.parametrize("size", [(300, 700), (50, 60)])
def test_the_contact_sheet_is_one_picture_of_rows_as_wide_as_the_places(size: tuple[int, int], capsys):
    photograph("photos/a.png", *size)
    assert (
        render.main(["--contact-sheet", "new/sheet.png", "--weather", "haze", "-i", "photos", "--device", "cpu"]) == 0
    )
    assert capsys.readouterr().out == "contact sheet -> new/sheet.png\n"
    height, width = read_rgb_uint8(Path("new/sheet.png")).shape[1:]
    tile = (min(HEIGHT_PX, size[0]), min(WIDTH_PX, size[1]))
    num_rows = 1 + len(range_names(HazeConfig()))
    assert len(PLACES) * tile[1] < width < len(PLACES) * (tile[1] + 8)
    assert num_rows * tile[0] < height < num_rows * (tile[0] + 30)
    assert not Path("out").exists()
