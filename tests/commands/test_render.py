"""restore-diff render: written pairs, resuming, error messages, contact sheet."""

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
from restore_diff.commands.rendering import HEIGHT_PX, PLACES, WIDTH_PX, rows_of_settings
from restore_diff.config import load_config
from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.loading import PairedImageDataset
from restore_diff.data.pairs import find_pairs
from restore_diff.settings import COMBINATIONS, DataConfig, HazeConfig, RainConfig, range_names, settings
from restore_diff.weather.renderer import WEATHERS, Kind

ROOT = Path(__file__).resolve().parents[2]
DENSE = "data.rain.density=[0.02,0.03]"


@settings
class Shade:
    density: tuple[float, float] = (0.2, 0.4)


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


def test_written_pairs_equal_those_rendered_in_training(capsys):
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
def test_each_copy_is_paired_with_its_photograph_for_any_name(names: list[str], copies: int):
    for name in names:
        photograph(f"photos/{name}.png")
    assert run("--copies", str(copies), "-q") == 0
    expected = {name if copies == 1 else f"{name}_{copy}": name for name in names for copy in range(copies)}
    assert {name: clean.stem for name, clean in found("out").items()} == expected
    assert len(set(contents("out/input").values())) == len(expected)


def test_existing_images_are_skipped_and_missing_ones_reproduced(capsys):
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


def test_an_image_depends_on_seed_and_name_only():
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


def test_images_of_other_settings_are_not_mixed(capsys):
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
    assert "foreign/target exists without render.json" in capsys.readouterr().err
    Path("out/render.json").write_text("{")
    assert run() == 2
    assert "damaged" in capsys.readouterr().err


def test_the_record_holds_the_settings_of_the_images():
    photograph("photos/a.png")
    assert run("--seed", "5", weather="rain+haze") == 0
    record = json.loads(Path("out/render.json").read_text(), parse_constant=pytest.fail)
    saved = record["settings"]
    assert (saved["seed"], saved["copies"], saved["weather"]) == (5, 1, "rain+haze")
    assert saved["rain"]["density"] == [0.02, 0.03] and {"haze", "camera"} < set(saved)
    assert record["environment"]["versions"]["restore_diff"]


@pytest.mark.parametrize(
    ("source", "output"),
    [("photos", "photos"), ("photos", "photos/out"), ("photos/a.png", "photos/a.png"), ("linked", "photos/out")],
)
def test_an_output_inside_the_input_is_rejected(source: str, output: str, capsys):
    photograph("photos/a.png")
    Path("linked").symlink_to("photos")
    assert run(source=source, output=output) == 2
    assert "outside of the photographs" in capsys.readouterr().err
    assert [path.name for path in Path("photos").iterdir()] == ["a.png"]


def test_the_targets_of_the_output_are_rejected_as_input(capsys):
    photograph("out/target/a.png")
    assert run(source="out/target") == 2
    assert "choose another -o" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.rain.densty=[0.1,0.2]"], "data.rain.densty (command line): unknown key; did you mean density?"),
        (["data.rain.density=[0.2,0.1]"], "data.rain.density"),
        (["data.rain.textures=nowhere"], "no such folder of textures"),
        (["-i", "nowhere"], "no such file or folder: nowhere"),
        (["-i", "empty"], "0 images under empty"),
        (["--depth", "empty"], "--depth needs weather with haze"),
        (["--device", "cuda:99"], "cuda:99"),
    ],
)
def test_a_user_error_is_reported_in_one_line(arguments: list[str], message: str, capsys):
    photograph("photos/a.png")
    Path("empty").mkdir()
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not Path("out").exists()


def test_a_weather_is_required(capsys):
    photograph("photos/a.png")
    assert render.main(["-i", "photos", "-o", "out"]) == 2
    assert "--weather rain" in capsys.readouterr().err
    assert render.main(["-i", "photos", "-o", "out", "data.weather=haze", "-q"]) == 0


def test_a_kind_of_a_plugin_is_rendered_and_recorded(monkeypatch):
    def darken(images, settings, seeds):
        return images * (1 - settings.density[0])

    monkeypatch.setitem(WEATHERS, "shade", Kind(darken, Shade))
    photograph("photos/a.png")
    options = ["data.weather=shade", "data.weather_options={shade: {density: [1, 1]}}"]
    assert render.main(["-i", "photos", "-o", "out", "-q", "--contact-sheet", "sheet.png", *options]) == 0
    assert read_rgb_uint8(Path("out/input/a.png")).max() == 0
    recorded = json.loads(Path("out/render.json").read_text())["settings"]
    assert recorded["weather_options"] == {"shade": {"density": [1, 1]}}


def test_a_dry_run_writes_nothing(capsys):
    photograph("photos/a.png")
    assert run("--dry-run", "--copies", "2") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "photos/a.png -> out/input/a_0.png",
        "photos/a.png -> out/input/a_1.png",
        "would render 2, skip 0 that exist",
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
    assert "c: no depth map" in printed
    (pair,) = PairedImageDataset(find_pairs("out", "train", Path()), None, seed=0)
    distance = torch.from_numpy(ramp.astype(np.float32)) / ramp.max()
    expected = 1 - (1 - pair.clean) * torch.exp(-2 * distance)
    torch.testing.assert_close(pair.degraded, expected, atol=0.51 / 255, rtol=0)


def test_weather_all_draws_every_combination_equally():
    for number in range(30):
        photograph(f"photos/{number}.png")
    assert run("-q", "--dry-run", weather="all") == 0
    config = load_config([], render._overrides(render._parse(["-i", "a", "-o", "b", "--weather", "all"])))
    assert set(config.data.weather) == set(COMBINATIONS) and set(config.data.weather.values()) == {1.0}


def test_a_full_disk_stops_the_run(monkeypatch, capsys):
    for name in "abc":
        photograph(f"photos/{name}.png")

    def full(path, pixels):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(rendering, "write_image", full)
    assert run() == 3
    printed = capsys.readouterr()
    assert "the disk is full" in printed.err and printed.err.count("No space") == 0


def test_after_ctrl_c_pairs_are_whole_and_the_run_continues(monkeypatch, capsys):
    for name in "abc":
        photograph(f"photos/{name}.png")

    def impatient(path):
        if path.name == "b.png":
            raise KeyboardInterrupt
        return read_rgb_uint8(path)

    with monkeypatch.context() as patched:
        patched.setattr(rendering, "read_rgb_uint8", impatient)
        assert run() == 130
    assert "run the same command again to continue" in capsys.readouterr().err
    assert list(found("out")) == ["a"]
    assert run() == 0
    assert "rendered 2, skipped 1" in capsys.readouterr().out


def test_help_and_config_errors_do_not_import_torch():
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


@pytest.mark.parametrize(("weather", "config"), [("rain", RainConfig()), ("haze", HazeConfig())])
def test_a_contact_sheet_has_a_row_per_range_from_minimum_to_maximum(weather, config):
    rows = rows_of_settings(DataConfig(weather=weather), seed=7)
    assert [row[0].caption.split()[0] for row in rows] == [f"{weather}.{name}" for name in range_names(config)]
    for row, name in zip(rows, range_names(config), strict=True):
        low, high = getattr(config, name)
        shown = [getattr(tile.config, weather) for tile in row]
        assert [getattr(each, name) for each in shown] == [
            pytest.approx((low + place * (high - low),) * 2) for place in (0, 0.25, 0.5, 0.75, 1)
        ]
        for other in set(range_names(config)) - {name}:
            middle = sum(getattr(config, other)) / 2
            assert all(getattr(each, other) == pytest.approx((middle, middle)) for each in shown)
        assert {tile.seed for tile in row} == {7}


def test_a_contact_sheet_of_several_kinds_shows_the_settings_of_all():
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
def test_the_size_of_a_contact_sheet_follows_rows_and_columns(size: tuple[int, int], capsys):
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
