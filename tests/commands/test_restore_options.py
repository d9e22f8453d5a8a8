"""restore.py's options for many images: reports, shares, several inputs, and what is left out of the outputs."""

import json
import os

import numpy as np
import pytest
from PIL import Image, ImageCms

from restore_diff import trained
from restore_diff.commands import restore
from restore_diff.data.images import read_image

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GPS = 0x8825


class Inversion:
    def restore(self, degraded, names, seed=0):
        return 1 - degraded


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "load_restorer", lambda *arguments, **named: (Inversion(), "a network that inverts"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def save(path, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = len(mode)
    array = (np.arange(9 * 7 * channels) * 79 % 256).astype(np.uint8).reshape(7, 9, channels)
    Image.fromarray(array[..., 0] if channels == 1 else array, mode).save(path, **options)
    return path


def run(*arguments):
    return restore.main(["-i", "photos", "-o", "out", *map(str, arguments)])


def report(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_report_tells_what_became_of_each_image(photos, capsys):
    for name in ("a.png", "b.png", "sub/c.png"):
        save(photos / name)
    (photos / "bad.png").write_text("no image")
    (photos / "notes.txt").touch()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    save(photos.parent / "out/b.png")
    assert run("--json", "report.json") == 3
    found = report((photos.parent / "report.json").read_text())
    assert (found["exit_code"], found["stopped"]) == (3, None)
    assert found["counts"] == {"restored": 3, "skipped": 1, "failed": 1, "left": 0}
    assert found["ignored"] == {".txt": 1}
    images = {image.pop("source"): image for image in found["images"]}
    assert images["photos/a.png"] == {"output": "out/a.png", "status": "restored", "reason": None, "note": None}
    assert images["photos/b.png"]["status"] == "skipped" and images["photos/sub/c.png"]["output"] == "out/sub/c.png"
    assert images["photos/bad.png"]["status"] == "failed"
    assert images["photos/bad.png"]["reason"].startswith("not an image of a known format")
    assert images["photos/moving.gif"]["note"] == "the first of 2 frames"
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3:-1] == ["restored in part:", "  photos/moving.gif: the first of 2 frames"]


def test_a_report_on_stdout_is_all_that_is_printed_there(photos, capsys):
    save(photos / "a.png")
    assert run("--json", "-") == 0
    assert report(capsys.readouterr().out)["counts"]["restored"] == 1
    assert run("--json", "-", "--dry-run", "--overwrite") == 0
    assert report(capsys.readouterr().out)["images"][0]["status"] == "left"


@pytest.mark.skipif(os.name != "posix", reason="bytes in names")
def test_a_report_holds_names_that_are_no_text(photos, capsys):
    save(photos / os.fsdecode(b"caf\xe9\n.png"))
    assert run("--json", "-") == 0
    text = capsys.readouterr().out
    assert report(text)["images"][0]["source"] == "photos/caf\\xe9\n.png"
    assert "\\udce9" not in text  # half of a character, which other programs refuse


def test_a_report_that_cannot_be_written_is_told(photos, capsys):
    save(photos / "a.png")
    assert run("--json", "photos/a.png/report.json") == 2
    assert "photos/a.png" in capsys.readouterr().err.splitlines()[-1]
    assert (photos.parent / "out/a.png").is_file()
    assert run("--json", "new/folder/report.json") == 0
    assert report((photos.parent / "new/folder/report.json").read_text())["counts"]["skipped"] == 1


def test_fail_fast_stops_at_the_first_failure_and_says_what_is_left(photos, capsys):
    for k in (0, 2, 3, 4):
        save(photos / f"{k}.png")
    (photos / "1.png").touch()
    assert run("--fail-fast", "--json", "-") == 3
    printed = capsys.readouterr()
    found = report(printed.out)
    assert found["counts"] == {"restored": 1, "skipped": 0, "failed": 1, "left": 3}
    assert found["stopped"] == "stopped at the first failure"
    assert "stopped at the first failure, 3 images are left" in printed.err
    assert [path.name for path in (photos.parent / "out").iterdir()] == ["0.png"]


def test_shards_restore_each_image_once(photos, capsys):
    for k in range(12):
        save(photos / f"{k}.png")
    numbers = []
    for shard in ("1/3", "2/3", "3/3"):
        assert run("--shard", shard, "--json", "-") == 0
        found = report(capsys.readouterr().out)["counts"]
        assert found["skipped"] == 0
        numbers.append(found["restored"])
    assert sum(numbers) == 12 and min(numbers) > 0
    assert len(list((photos.parent / "out").iterdir())) == 12
    assert run("--shard", "2/3", "--json", "-") == 0
    assert report(capsys.readouterr().out)["counts"]["skipped"] == numbers[1]


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK"])
def test_half_of_what_torchrun_sets_is_not_taken_for_it(photos, monkeypatch, capsys, name):
    """As in a cluster's job script that exports WORLD_SIZE for others."""
    monkeypatch.setenv(name, "4")
    for k in range(4):
        save(photos / f"{k}.png")
    assert run() == 0
    assert "restored 4, skipped 0" in capsys.readouterr().out


def test_several_inputs_a_pattern_and_a_list_go_into_one_folder(photos, capsys):
    save(photos / "a.png")
    save(photos / "sub/b.png")
    save(photos.parent / "single.png")
    save(photos.parent / "more/c.png")
    (photos.parent / "list.txt").write_text("more/c.png\nmore/none.png\n")
    inputs = ["-i", "single.png", "photos/**/*.png", "@list.txt", "-o", "out"]
    assert restore.main(inputs) == 3
    out = photos.parent / "out"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png")) == [
        "a.png",
        "more/c.png",
        "single.png",
        "sub/b.png",
    ]
    assert "more/none.png: no such file or folder" in capsys.readouterr().err


def test_metadata_is_kept_or_stripped_but_for_the_colour_profile(photos):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(GPS)[2] = (1.0, 2.0, 3.0)
    for name in ("a.jpg", "b.png", "c.webp", "d.tif"):
        save(photos / name, exif=exif.tobytes(), icc_profile=ICC)
    for choice, kept in (("keep", True), ("strip", False)):
        assert run("--metadata", choice, "--overwrite") == 0
        for path in (photos.parent / "out").iterdir():
            with Image.open(path) as restored:
                assert restored.info["icc_profile"] == ICC
                assert (restored.getexif().get(0x010F) == "Maker") is kept
                assert bool(restored.getexif().get_ifd(GPS)) is kept
            assert (b"Maker" in path.read_bytes()) is kept


def test_transparency_can_be_dropped_as_jpeg_needs_it(photos, capsys):
    save(photos / "a.png", "RGBA")
    assert run("--ext", "jpg") == 3
    assert "JPEG holds no transparency" in capsys.readouterr().err
    assert run("--ext", "jpg", "--alpha", "drop") == 0
    assert run("--alpha", "drop") == 0
    restored = read_image(photos.parent / "out/a.png")
    assert restored.alpha is None and restored.pixels.allclose(1 - read_image(photos / "a.png").pixels, atol=1e-6)


def test_what_a_killed_run_left_behind_goes_away_also_beside_finished_images(photos):
    """As after a kill during --overwrite: the old output stands, and nothing will be written there again."""
    save(photos / "sub/a.png")
    assert run() == 0
    stale = photos.parent / "out/sub/.restore-diff-00000000-1-00000000-0.tmp"
    stale.touch()
    os.utime(stale, (0, 0))
    assert run("--dry-run") == 0 and stale.exists()
    assert run() == 0 and not stale.exists()
    assert [path.name for path in (photos.parent / "out/sub").iterdir()] == ["a.png"]


def test_odd_files_give_no_warnings_of_decoders(photos, recwarn):
    corrupt = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + b"\x0f\x01\x02\0\xff\xff\0\0\0\0\0\0" * 2
    Image.new("RGB", (4, 4)).save(photos / "a.jpg", exif=corrupt)
    recwarn.clear()
    assert run() == 0
    assert not [warning for warning in recwarn if "PIL" in warning.filename]
    with Image.open(photos / "a.jpg") as image:
        image.getexif()
    assert "Skipping tag" in str(recwarn.pop(UserWarning).message)
