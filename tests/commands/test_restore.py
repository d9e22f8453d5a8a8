"""restore.py on real files through the real main(); only the network is replaced, by an inversion."""

import errno
import inspect
import json
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image, ImageCms

from restore_diff import trained
from restore_diff.commands import restore
from restore_diff.data import formats
from restore_diff.data.images import read_image, write_image
from restore_diff.restoration import folder

BUILDER = trained.load_restorer
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GPS = 0x8825
OUT = Path("out")


class Inversion:
    """Restores a picture to its negative, and records its arguments."""

    def __init__(self):
        self.loaded, self.names, self.seeds = [], [], []

    def load(self, checkpoint, **overrides):
        self.loaded.append((checkpoint, overrides))
        return self, "a network that inverts"

    def restore(self, degraded, names, seed=0):
        assert degraded.dtype == torch.float32
        assert 0 <= degraded.min() <= degraded.max() <= 1
        self.names += names
        self.seeds.append(seed)
        return 1 - degraded


@pytest.fixture(autouse=True)
def network(monkeypatch):
    inversion = Inversion()
    monkeypatch.setattr(trained, "load_restorer", inversion.load)
    return inversion


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
    """photos/ in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    return Path("photos")


def levels(*shape, largest=255):
    return (np.arange(np.prod(shape)) * 7919 % (largest + 1)).reshape(shape)


def picture(mode="RGB", width=9, height=7):
    array = levels(height, width, len(Image.new(mode, (1, 1)).getbands())).astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array, mode)


def save(*paths, mode="RGB", **options):
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        picture(mode).save(path, **options)


def run(*arguments, source="photos", output="out"):
    return restore.main(["-i", str(source), "-o", str(output), *map(str, arguments)])


def report(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not in JSON")

    return json.loads(text, parse_constant=refuse)


def files():
    return sorted(path.relative_to(OUT).as_posix() for path in OUT.rglob("*") if path.is_file())


def test_a_tree_is_restored_and_mirrored(photos, capsys):
    names = ["a.png", "sub/b.png", "sub/deep er/c.png"]
    save(*(photos / name for name in names))
    assert run() == 0
    assert files() == names
    torch.testing.assert_close(read_image(OUT / "sub/b.png").pixels, 1 - read_image(photos / "a.png").pixels)
    printed = capsys.readouterr().out
    assert "a network that inverts" in printed
    assert printed.splitlines()[-1].startswith("restored 3, skipped 0, failed 0 in ")
    assert printed.splitlines()[-1].endswith(" s -> out")


def test_finished_images_are_skipped_without_loading_the_network(photos, network, capsys):
    save(photos / "a.png", photos / "b.png")
    run()
    (OUT / "b.png").unlink()
    before = (OUT / "a.png").stat().st_mtime_ns
    assert run() == 0
    assert "restored 1, skipped 1, failed 0" in capsys.readouterr().out
    assert (OUT / "a.png").stat().st_mtime_ns == before
    assert run() == 0
    assert len(network.loaded) == 2
    assert run("--overwrite") == 0
    assert network.names == ["a.png", "b.png", "b.png", "a.png", "b.png"]


def test_bad_files_are_listed_at_the_end_with_exit_code_3(photos, capsys):
    save(photos / "a.png", photos / "z.png")
    content = (photos / "a.png").read_bytes()
    (photos / "empty.png").touch()
    (photos / "text.png").write_text("no image")
    (photos / "cut.png").write_bytes(content[:60])
    (photos / "flipped.png").write_bytes(content[:60] + bytes([content[60] ^ 0xFF]) + content[61:])
    (photos / "desktop.ini").write_text("no image, and not named like one")
    assert run() == 3
    printed = capsys.readouterr()
    assert "restored 2, skipped 0, failed 4 in" in printed.out
    assert "ignored 1 that are not images: 1 .ini" in printed.out
    first, *failures = printed.err.splitlines()
    assert first == "failed:"
    expected = [f"  photos/{name}" for name in ("cut.png", "empty.png", "flipped.png", "text.png")]
    assert [line.split(":")[0] for line in failures] == expected
    assert all(line.count("photos") == 1 for line in failures)
    assert files() == ["a.png", "z.png"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_a_png_keeps_its_mode_and_its_transparency(photos, mode):
    save(photos / "a.png", mode=mode)
    assert run() == 0
    with Image.open(OUT / "a.png") as restored:
        assert restored.mode == mode
        expected = 255 - np.array(picture(mode))
        if mode in ("RGBA", "LA"):
            expected[..., -1] = np.array(picture(mode))[..., -1]
        np.testing.assert_array_equal(np.array(restored), expected)


def test_palette_one_bit_gif_and_cmyk_are_restored(photos):
    picture().quantize(200).save(photos / "palette.png")
    picture("L").convert("1").save(photos / "bits.png")
    picture().quantize(200).save(photos / "picture.gif")
    save(photos / "print.jpg", mode="CMYK", quality=100)
    assert run() == 0
    for source, output in (("palette.png",) * 2, ("bits.png",) * 2, ("picture.gif", "picture.png")):
        restored = read_image(OUT / output).pixels
        torch.testing.assert_close(restored, 1 - read_image(photos / source).pixels, atol=1e-6, rtol=0)
    with Image.open(OUT / "print.jpg") as restored:
        assert (restored.mode, restored.size) == ("RGB", (9, 7))


def test_files_are_read_by_content_and_written_by_name(photos):
    save(photos / "a.png", format="JPEG")
    save(photos / "without_ending", format="PNG")
    assert run() == 0
    with Image.open(OUT / "a.png") as restored:
        assert restored.format == "PNG"
    assert (OUT / "without_ending.png").is_file()


def test_file_names_of_all_kinds_are_restored_and_cannot_break_a_line(photos, capsys):
    names = ["a b.png", "-rf.png", "two\nlines.png", "\x1b[31mred.png", "日本語 ☂.png", "%s{0}.png", "'\";.png"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"caf\xe9.png"))
    save(*(photos / name for name in names))
    (photos / "bad\x1b[2J\n.png").touch()
    assert run("-v") == 3
    assert files() == sorted(names)
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "two\\nlines.png" in printed.out
    assert "bad\\x1b[2J\\n.png" in printed.err
    assert len(printed.err.splitlines()) == 2


def test_a_single_file_gets_the_same_name_and_seed_as_in_its_folder(photos, network):
    save(photos / "sub/a.jpg", quality=95)
    for source in (photos, photos / "sub", photos / "sub/a.jpg"):
        assert run("--overwrite", "--seed", 7, source=source) == 0
    assert network.names == ["a.jpg"] * 3
    assert network.seeds == [7] * 3


def test_short_names_of_other_programs_mean_options_of_this_one():
    peers = restore.parse(["-i", "a", "-o", "b", "-n", "shipped", "-s", "4", "-t", "0", "--half"])
    assert peers == restore.parse(["-i", "a", "-o", "b", "--name", "shipped", "--steps", "4", "--tile", "0", "--fp16"])
    assert (str(peers.ckpt), peers.steps, peers.tile, peers.dtype) == ("shipped", 4, 0, "float16")


def test_a_name_with_a_leading_dash_can_be_given():
    save("-a.png")
    assert restore.main(["--input=-a.png", "--output=-o.png"]) == 0
    assert Path("-o.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "checkpoint", "expected"),
    [
        ([], None, {}),
        (
            ["--ckpt", "runs/x", "--steps", "9", "--sampler", "ddim", "--tile", "0"],
            Path("runs/x"),
            {"num_steps": 9, "sampler": "ddim", "tile_size_px": 0},
        ),
        (
            ["--tile", "64", "--tile_overlap=8", "--device", "cuda:1", "--dtype", "bf16", "--weather=rain"],
            None,
            {"device": "cuda:1", "precision": "bfloat16", "tile_size_px": 64, "tile_overlap_px": 8, "weather": "rain"},
        ),
    ],
)
def test_only_given_options_override_the_checkpoint(photos, network, arguments, checkpoint, expected):
    save(photos / "a.png")
    assert run(*arguments) == 0
    names = (
        "num_steps",
        "sampler",
        "tile_size_px",
        "tile_overlap_px",
        "quality",
        "num_samples",
        "weather",
        "zero_shot",
    )
    unchanged = {**dict.fromkeys(names), "device": "auto", "precision": "auto"}
    assert network.loaded == [(checkpoint, unchanged | expected)]
    inspect.signature(BUILDER).bind(checkpoint, **network.loaded[0][1])


def test_ending_suffix_and_quality(photos):
    save(photos / "a.png")
    sizes = []
    for quality in (100, 5):
        assert run("--ext", "jpg", "--suffix", "_restored", "--jpeg-quality", quality, "--overwrite") == 0
        sizes.append((OUT / "a_restored.jpg").stat().st_size)
    assert sizes[1] < sizes[0]


def test_a_header_with_too_many_pixels_is_refused(photos, network, capsys):
    save(photos / "a.png")
    bomb = bytearray((photos / "a.png").read_bytes())
    bomb[16:24] = struct.pack(">II", 30_000, 30_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    (photos / "bomb.png").write_bytes(bomb)
    assert run() == 3
    assert "900,000,000" in capsys.readouterr().err
    assert run("--overwrite", "--max-pixels", 62) == 3
    assert network.names == ["a.png"]


def test_dry_run_writes_nothing(photos, network, capsys):
    save(photos / "a.png", photos / "b.gif")
    assert run("--dry_run", "--compare") == 0
    expected = ["photos/a.png -> out/comparisons/a.png", "photos/b.gif -> out/b.png"]
    assert capsys.readouterr().out.splitlines()[1:3] == expected
    assert not OUT.exists()
    assert not network.loaded


def test_quiet_prints_failures_only(photos, capsys):
    save(photos / "a.png")
    assert run("-q") == 0
    assert capsys.readouterr() == ("", "")
    (photos / "b.png").touch()
    assert run("-q") == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "photos/b.png" in printed.err


def test_no_image_is_bad_usage_that_lists_ignored_files(photos, capsys):
    (photos / "notes.docx").write_text("no photograph")
    assert run() == 2
    printed = capsys.readouterr().err
    assert "no image in" in printed
    assert "1 .docx" in printed


def test_two_inputs_with_one_output_are_bad_usage_before_any_work(photos, capsys):
    save(photos / "a.png", photos / "a.jpg")
    assert run("--ext", "webp") == 2
    assert capsys.readouterr().err.splitlines()[1] == "  photos/a.jpg, photos/a.png -> a.webp"
    assert not OUT.exists()


def test_a_full_disk_stops_the_run_and_lists_finished_images(photos, capsys, monkeypatch):
    save(*(photos / f"{k}.png" for k in range(5)))

    def write(path, *arguments, **named):
        if path.name == "2.png":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_image(path, *arguments, **named)

    monkeypatch.setattr(folder, "write_image", write)
    assert run() == 3
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "failed:",
        "  photos/2.png: cannot write out/2.png: No space left on device",
        "stopped, the disk is full, 2 images are left; restored before:",
        "  out/0.png",
        "  out/1.png",
    ]
    assert "restored 2, skipped 0, failed 1" in printed.out


def test_an_input_is_never_overwritten(photos):
    save(photos / "a.png")
    original = (photos / "a.png").read_bytes()
    assert run("--overwrite", output="photos") == 2
    assert run("--overwrite", source="photos/a.png", output="photos") == 2
    assert (photos / "a.png").read_bytes() == original


def test_a_missing_checkpoint_is_bad_usage_in_one_line(photos, monkeypatch, capsys):
    def load(checkpoint, **overrides):
        raise FileNotFoundError("no run in runs/: pass --ckpt")

    monkeypatch.setattr(trained, "load_restorer", load)
    save(photos / "a.png")
    assert run() == 2
    assert capsys.readouterr().err == "restore.py: no run in runs/: pass --ckpt\n"
    assert not OUT.exists()


def test_a_report_has_the_result_of_each_image(photos, capsys):
    save(photos / "a.png", photos / "b.png", photos / "sub/c.png", OUT / "b.png")
    (photos / "bad.png").write_text("no image")
    (photos / "notes.txt").touch()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    assert run("--json", "report.json") == 3
    found = report(Path("report.json").read_text())
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


def test_a_report_on_stdout_is_the_only_output_there(photos, capsys):
    save(photos / "a.png")
    assert run("--json", "-") == 0
    assert report(capsys.readouterr().out)["counts"]["restored"] == 1
    assert run("--json", "-", "--dry-run", "--overwrite") == 0
    assert report(capsys.readouterr().out)["images"][0]["status"] == "left"


@pytest.mark.skipif(os.name != "posix", reason="bytes in names")
def test_a_report_escapes_undecodable_bytes_of_names(photos, capsys):
    save(photos / os.fsdecode(b"caf\xe9\n.png"))
    assert run("--json", "-") == 0
    text = capsys.readouterr().out
    assert report(text)["images"][0]["source"] == "photos/caf\\xe9\n.png"
    assert "\\udce9" not in text  # a lone surrogate, which other programs refuse


def test_a_report_that_cannot_be_written_is_an_error(photos, capsys):
    save(photos / "a.png")
    assert run("--json", "photos/a.png/report.json") == 2
    assert "photos/a.png" in capsys.readouterr().err.splitlines()[-1]
    assert (OUT / "a.png").is_file()
    assert run("--json", "new/folder/report.json") == 0
    assert report(Path("new/folder/report.json").read_text())["counts"]["skipped"] == 1


def test_fail_fast_stops_at_the_first_failure_and_counts_images_left(photos, capsys):
    save(*(photos / f"{k}.png" for k in (0, 2, 3, 4)))
    (photos / "1.png").touch()
    assert run("--fail-fast", "--json", "-") == 3
    printed = capsys.readouterr()
    found = report(printed.out)
    assert found["counts"] == {"restored": 1, "skipped": 0, "failed": 1, "left": 3}
    assert found["stopped"] == "stopped at the first failure"
    assert "stopped at the first failure, 3 images are left: run the same command again to continue" in printed.err
    assert files() == ["0.png"]


def test_shards_restore_each_image_once(photos, capsys):
    save(*(photos / f"{k}.png" for k in range(12)))
    numbers = []
    for shard in ("1/3", "2/3", "3/3"):
        assert run("--shard", shard, "--json", "-") == 0
        found = report(capsys.readouterr().out)["counts"]
        assert found["skipped"] == 0
        numbers.append(found["restored"])
    assert sum(numbers) == len(files()) == 12 and min(numbers) > 0
    assert run("--shard", "2/3", "--json", "-") == 0
    assert report(capsys.readouterr().out)["counts"]["skipped"] == numbers[1]


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK"])
def test_only_both_variables_of_torchrun_share_the_images(photos, monkeypatch, capsys, name):
    """Job scripts of clusters export WORLD_SIZE for other programs."""
    monkeypatch.setenv(name, "4")
    save(*(photos / f"{k}.png" for k in range(4)))
    assert run() == 0
    assert "restored 4, skipped 0" in capsys.readouterr().out


def test_several_inputs_a_pattern_and_a_list_go_into_one_folder(photos, capsys):
    save(photos / "a.png", photos / "sub/b.png", "single.png", "more/c.png")
    Path("list.txt").write_text("more/c.png\nmore/none.png\n")
    assert restore.main(["-i", "single.png", "photos/**/*.png", "@list.txt", "-o", "out"]) == 3
    assert files() == ["a.png", "more/c.png", "single.png", "sub/b.png"]
    assert "more/none.png: no such file or folder" in capsys.readouterr().err


def test_metadata_is_kept_or_stripped_and_the_colour_profile_kept(photos):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(GPS)[2] = (1.0, 2.0, 3.0)
    save(*(photos / name for name in ("a.jpg", "b.png", "c.webp", "d.tif")), exif=exif.tobytes(), icc_profile=ICC)
    for choice, kept in (("keep", True), ("strip", False)):
        assert run("--metadata", choice, "--overwrite") == 0
        for path in OUT.iterdir():
            with Image.open(path) as restored:
                assert restored.info["icc_profile"] == ICC
                assert (restored.getexif().get(0x010F) == "Maker") is kept
                assert bool(restored.getexif().get_ifd(GPS)) is kept
            assert (b"Maker" in path.read_bytes()) is kept


def test_transparency_can_be_dropped_as_jpeg_needs_it(photos, capsys):
    save(photos / "a.png", mode="RGBA")
    assert run("--ext", "jpg") == 3
    assert "JPEG holds no transparency" in capsys.readouterr().err
    assert run("--ext", "jpg", "--alpha", "drop") == 0
    assert run("--alpha", "drop") == 0
    restored = read_image(OUT / "a.png")
    assert restored.alpha is None and restored.pixels.allclose(1 - read_image(photos / "a.png").pixels, atol=1e-6)


def test_temporary_files_of_a_killed_run_are_removed(photos):
    """After a kill during --overwrite: the old output exists, and nothing will be written there again."""
    save(photos / "sub/a.png")
    assert run() == 0
    stale = OUT / "sub/.restore-diff-00000000-1-00000000-0.tmp"
    stale.touch()
    os.utime(stale, (0, 0))
    assert run("--dry-run") == 0 and stale.exists()
    assert run() == 0 and files() == ["sub/a.png"]


def test_decoders_print_no_warnings_about_odd_files(photos, recwarn):
    corrupt = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + b"\x0f\x01\x02\0\xff\xff\0\0\0\0\0\0" * 2
    Image.new("RGB", (4, 4)).save(photos / "a.jpg", exif=corrupt)
    recwarn.clear()
    assert run() == 0
    assert not [warning for warning in recwarn if "PIL" in warning.filename]
    with Image.open(photos / "a.jpg") as image:
        image.getexif()
    assert [warning for warning in recwarn if "PIL" in warning.filename]  # by Pillow alone, with them


@pytest.mark.parametrize("ending", ["heic", "avif"])
def test_photographs_of_phones_are_restored_in_their_format(photos, ending):
    save_flat = {"heic": lambda image, path: pillow_heif.from_pillow(image).save(path), "avif": Image.Image.save}[
        ending
    ]
    save_flat(Image.new("RGB", (64, 48), (200, 100, 40)), photos / f"IMG_1.{ending.upper()}")
    assert run() == 0
    assert files() == [f"IMG_1.{ending.upper()}"]
    restored = read_image(OUT / files()[0]).pixels * 255
    assert (restored.mean(dim=(1, 2)) - torch.tensor([55.0, 155.0, 215.0])).abs().max() < 4
    assert run("--ext", "heic" if ending == "avif" else "avif", "--overwrite") == 0 and len(files()) == 2


@pytest.mark.parametrize("others", [0, 1])
def test_photographs_that_cannot_be_read_are_counted_with_what_to_install(photos, capsys, monkeypatch, others):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    for number in range(3):
        (photos / f"IMG_{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (photos / "a.dng").write_bytes(b"II*\0\x08\0\0\0")
    (photos / "note.txt").touch()
    if others:
        save(photos / "z.png")
    assert run("--json", "report.json") == 3
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "failed:",
        "  3 .heic ignored: HEIC needs another package: pip install pillow-heif",
        "  1 .dng ignored: camera RAW needs another package: pip install 'restore_diff[raw]'",
    ]
    assert f"restored {others}, skipped 0, failed 4" in printed.out
    found = report(Path("report.json").read_text())
    assert found["counts"]["failed"] == 4 and found["ignored"] == {".txt": 1}
    assert run("-q", source="photos/*.HEIC") == 3
    assert "3 .heic ignored" in capsys.readouterr().err


def test_notes_name_what_is_not_kept_and_are_counted_for_many_files(photos, capsys):
    save(*(photos / f"{k}.jpg" for k in range(2)), comment="a note")
    assert run("--ext", "webp") == 0
    assert "restored in part:\n  photos/0.jpg: not kept: comment\n" in capsys.readouterr().out
    save(*(photos / f"{k}.jpg" for k in range(20)), comment="a note")
    assert run("--ext", "webp", "--overwrite") == 0
    assert "restored in part:\n  20 .jpg: not kept: comment\n" in capsys.readouterr().out
