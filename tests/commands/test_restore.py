"""restore.py as a user meets it: real files through the real main(); the network alone is replaced, by an inversion."""

import errno
import inspect
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restore_diff import trained
from restore_diff.commands import restore
from restore_diff.data.images import read_image, write_image
from restore_diff.restoration import folder

BUILDER = trained.load_restorer


class Inversion:
    """Restores a picture to its negative, and remembers what it was asked."""

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


@pytest.fixture
def network(monkeypatch):
    inversion = Inversion()
    monkeypatch.setattr(trained, "load_restorer", inversion.load)
    return inversion


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def levels(*shape, largest=255):
    return (np.arange(np.prod(shape)) * 7919 % (largest + 1)).reshape(shape)


def picture(mode="RGB", width=9, height=7):
    channels = {"RGB": 3, "RGBA": 4, "LA": 2, "L": 1, "CMYK": 4}[mode]
    array = levels(height, width, channels).astype(np.uint8)
    return Image.fromarray(array[..., 0] if channels == 1 else array, mode)


def save(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture().save(path, **options)
    return path


def run(photos, *arguments):
    return restore.main(["-i", str(photos), "-o", str(photos.parent / "out"), *map(str, arguments)])


def test_a_tree_is_restored_and_mirrored(photos, network, capsys):
    for name in ("a.png", "sub/b.png", "sub/deep er/c.png"):
        save(photos / name)
    assert run(photos) == 0
    out = photos.parent / "out"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "a.png",
        "sub/b.png",
        "sub/deep er/c.png",
    ]
    torch.testing.assert_close(read_image(out / "sub/b.png").pixels, 1 - read_image(photos / "a.png").pixels)
    printed = capsys.readouterr().out
    assert "a network that inverts" in printed
    assert printed.splitlines()[-1].startswith("restored 3, skipped 0, failed 0 in ")
    assert printed.splitlines()[-1].endswith(f" s -> {out}")


def test_what_is_done_is_skipped_without_loading_the_network(photos, network, capsys):
    save(photos / "a.png")
    save(photos / "b.png")
    run(photos)
    (photos.parent / "out/b.png").unlink()
    before = (photos.parent / "out/a.png").stat().st_mtime_ns
    assert run(photos) == 0
    assert "restored 1, skipped 1, failed 0" in capsys.readouterr().out
    assert (photos.parent / "out/a.png").stat().st_mtime_ns == before
    assert run(photos) == 0
    assert len(network.loaded) == 2
    assert run(photos, "--overwrite") == 0
    assert network.names == ["a.png", "b.png", "b.png", "a.png", "b.png"]


def test_bad_files_are_listed_at_the_end_and_the_exit_code_says_so(photos, network, capsys):
    save(photos / "a.png")
    save(photos / "z.png")
    (photos / "empty.png").touch()
    (photos / "text.png").write_text("no image")
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:60])
    flipped = bytearray((photos / "a.png").read_bytes())
    flipped[60] ^= 0xFF
    (photos / "flipped.png").write_bytes(flipped)
    (photos / "desktop.ini").write_text("no image, and not named like one")
    assert run(photos) == 3
    printed = capsys.readouterr()
    assert "restored 2, skipped 0, failed 4 in" in printed.out
    assert "ignored 1 that are not images: 1 .ini" in printed.out
    failures = printed.err.splitlines()
    assert failures[0] == "failed:"
    assert [line.split(":")[0] for line in failures[1:]] == [
        f"  {photos / name}" for name in ("cut.png", "empty.png", "flipped.png", "text.png")
    ]
    assert all(line.count(str(photos)) == 1 for line in failures[1:])
    assert sorted(path.name for path in (photos.parent / "out").iterdir()) == ["a.png", "z.png"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_a_png_keeps_its_mode_and_its_transparency(photos, network, mode):
    picture(mode).save(photos / "a.png")
    assert run(photos) == 0
    with Image.open(photos.parent / "out/a.png") as restored:
        assert restored.mode == mode
        expected = 255 - np.array(picture(mode))
        if mode in ("RGBA", "LA"):
            expected[..., -1] = np.array(picture(mode))[..., -1]
        np.testing.assert_array_equal(np.array(restored), expected)


def test_sixteen_bits_stay_sixteen_bits(photos, network):
    values = levels(7, 9, largest=65535).astype(np.uint16)
    Image.fromarray(values).save(photos / "a.png")
    assert run(photos) == 0
    with Image.open(photos.parent / "out/a.png") as restored:
        np.testing.assert_array_equal(np.array(restored), 65535 - values)


def test_palette_one_bit_gif_and_cmyk_are_restored(photos, network):
    picture().quantize(200).save(photos / "palette.png")
    picture("L").convert("1").save(photos / "bits.png")
    picture().quantize(200).save(photos / "picture.gif")
    picture("CMYK").save(photos / "print.jpg", quality=100)
    assert run(photos) == 0
    for source, output in (("palette.png",) * 2, ("bits.png",) * 2, ("picture.gif", "picture.png")):
        restored = read_image(photos.parent / "out" / output).pixels
        torch.testing.assert_close(restored, 1 - read_image(photos / source).pixels, atol=1e-6, rtol=0)
    with Image.open(photos.parent / "out/print.jpg") as restored:
        assert (restored.mode, restored.size) == ("RGB", (9, 7))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_comes_out_upright(photos, network, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(width=16, height=8).save(photos / "a.png", exif=exif)
    assert run(photos) == 0
    with Image.open(photos.parent / "out/a.png") as restored:
        assert restored.size == ((16, 8) if orientation < 5 else (8, 16))
        assert restored.getexif().get(0x0112, 1) == 1
    upright = read_image(photos / "a.png").pixels
    torch.testing.assert_close(read_image(photos.parent / "out/a.png").pixels, 1 - upright)


def test_a_jpeg_named_png_is_read_by_its_content_and_written_by_its_name(photos, network):
    picture().save(photos / "a.png", format="JPEG")
    save(photos / "without_ending", format="PNG")
    assert run(photos) == 0
    with Image.open(photos.parent / "out/a.png") as restored:
        assert restored.format == "PNG"
    assert (photos.parent / "out/without_ending.png").is_file()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 50), (7, 7), (33, 1)])
def test_any_size_keeps_its_size(photos, network, width, height):
    picture(width=width, height=height).save(photos / "a.png")
    assert run(photos) == 0
    with Image.open(photos.parent / "out/a.png") as restored:
        assert restored.size == (width, height)


def test_names_of_all_kinds_are_restored_and_cannot_break_a_line(photos, network, capsys):
    names = ["a b.png", "-rf.png", "two\nlines.png", "\x1b[31mred.png", "日本語 ☂.png", "%s{0}.png", "'\";.png"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"caf\xe9.png"))
    for name in names:
        save(photos / name)
    (photos / "bad\x1b[2J\n.png").touch()
    assert run(photos, "-v") == 3
    assert sorted(path.name for path in (photos.parent / "out").iterdir()) == sorted(names)
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert "\x1b" not in text
    assert "two\\nlines.png" in text
    assert "bad\\x1b[2J\\n.png" in printed.err
    assert len(printed.err.splitlines()) == 2


def test_a_single_file_gives_the_same_as_in_its_folder(photos, network):
    save(photos / "sub/a.jpg", quality=95)
    for source in (photos, photos / "sub", photos / "sub/a.jpg"):
        assert restore.main(["-i", str(source), "-o", str(photos.parent / "x"), "--overwrite", "--seed", "7"]) == 0
    assert network.names == ["a.jpg"] * 3
    assert network.seeds == [7] * 3


def test_a_name_with_a_leading_dash_can_be_given(photos, network, monkeypatch):
    monkeypatch.chdir(photos)
    save(photos / "-a.png")
    assert restore.main(["--input=-a.png", "--output=-o.png"]) == 0
    assert (photos / "-o.png").is_file()


def test_only_what_is_asked_for_overrides_the_checkpoint(photos, network):
    save(photos / "a.png")
    unchanged = {"num_steps": None, "sampler": None, "tile_size_px": None, "tile_overlap_px": None}
    unchanged |= {"quality": None, "num_samples": None, "weather": None}
    run(photos)
    run(photos, "--overwrite", "--ckpt", "runs/x", "--steps", 9, "--sampler", "ddim", "--tile", 0)
    run(
        photos,
        "--overwrite",
        "--tile",
        64,
        "--tile_overlap=8",
        "--device",
        "cuda:1",
        "--dtype",
        "bf16",
        "--weather=rain",
    )
    assert network.loaded == [
        (None, {**unchanged, "device": "auto", "precision": "auto"}),
        (
            Path("runs/x"),
            unchanged | {"device": "auto", "precision": "auto", "num_steps": 9, "sampler": "ddim", "tile_size_px": 0},
        ),
        (
            None,
            unchanged
            | {
                "device": "cuda:1",
                "precision": "bfloat16",
                "tile_size_px": 64,
                "tile_overlap_px": 8,
                "weather": "rain",
            },
        ),
    ]


def test_the_overrides_are_those_that_the_builder_takes(photos, network):
    signature = inspect.signature(BUILDER)
    save(photos / "a.png")
    run(photos)
    checkpoint, overrides = network.loaded[0]
    signature.bind(checkpoint, **overrides)


def test_endings_suffix_and_quality(photos, network):
    save(photos / "a.png")
    assert run(photos, "--ext", "jpg", "--suffix", "_restored", "--jpeg-quality", 100) == 0
    large = (photos.parent / "out/a_restored.jpg").stat().st_size
    assert run(photos, "--ext", "jpg", "--suffix", "_restored", "--jpeg-quality", 5, "--overwrite") == 0
    assert (photos.parent / "out/a_restored.jpg").stat().st_size < large


def test_comparisons_are_written_beside_the_outputs(photos, network):
    save(photos / "sub/a.jpg")
    assert run(photos, "--compare") == 0
    with Image.open(photos.parent / "out/comparisons/sub/a.jpg.png") as both:
        assert both.size == (18, 7)
    assert (photos.parent / "out/sub/a.jpg").is_file()


def test_a_header_that_claims_too_many_pixels_is_refused(photos, network, capsys):
    save(photos / "a.png")
    bomb = bytearray((photos / "a.png").read_bytes())
    bomb[16:24] = struct.pack(">II", 30_000, 30_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    (photos / "bomb.png").write_bytes(bomb)
    assert run(photos) == 3
    assert "900,000,000" in capsys.readouterr().err
    assert run(photos, "--overwrite", "--max-pixels", 62) == 3
    assert network.names == ["a.png"]


def test_dry_run_writes_nothing(photos, network, capsys):
    save(photos / "a.png")
    save(photos / "b.gif")
    assert run(photos, "--dry_run", "--compare") == 0
    assert capsys.readouterr().out.splitlines()[1:3] == [
        f"{photos / 'a.png'} -> {photos.parent / 'out/comparisons/a.png'}",
        f"{photos / 'b.gif'} -> {photos.parent / 'out/b.png'}",
    ]
    assert not (photos.parent / "out").exists()
    assert not network.loaded


def test_quiet_prints_failures_only(photos, network, capsys):
    save(photos / "a.png")
    assert run(photos, "-q") == 0
    assert capsys.readouterr() == ("", "")
    (photos / "b.png").touch()
    assert run(photos, "-q") == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(photos / "b.png") in printed.err


def test_no_image_is_bad_usage_that_says_what_was_found(photos, network, capsys):
    (photos / "IMG_1.heic").write_text("no format that is read")
    assert run(photos) == 2
    printed = capsys.readouterr().err
    assert "no image in" in printed
    assert "1 .heic" in printed


def test_two_inputs_of_one_output_are_bad_usage_before_any_work(photos, network, capsys):
    save(photos / "a.png")
    save(photos / "a.jpg")
    assert run(photos, "--ext", "webp") == 2
    assert capsys.readouterr().err.splitlines()[1] == f"  {photos / 'a.jpg'}, {photos / 'a.png'} -> a.webp"
    assert not (photos.parent / "out").exists()


def test_a_full_disk_stops_the_run_with_the_list_of_what_is_done(photos, network, capsys, monkeypatch):
    for k in range(5):
        save(photos / f"{k}.png")

    def write(path, *arguments, **named):
        if path.name == "2.png":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_image(path, *arguments, **named)

    monkeypatch.setattr(folder, "write_image", write)
    assert run(photos) == 3
    out = photos.parent / "out"
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "failed:",
        f"  {photos / '2.png'}: cannot write {out / '2.png'}: No space left on device",
        "stopped, the disk is full, 2 images are left; restored before:",
        f"  {out / '0.png'}",
        f"  {out / '1.png'}",
    ]
    assert "restored 2, skipped 0, failed 1" in printed.out


def test_an_input_is_never_overwritten(photos, network, capsys):
    original = save(photos / "a.png").read_bytes()
    assert restore.main(["-i", str(photos), "-o", str(photos), "--overwrite"]) == 2
    assert restore.main(["-i", str(photos / "a.png"), "-o", str(photos), "--overwrite"]) == 2
    assert (photos / "a.png").read_bytes() == original


def test_no_checkpoint_is_bad_usage_in_one_line(photos, monkeypatch, capsys):
    def load(checkpoint, **overrides):
        raise FileNotFoundError("no run in runs/: train one with `python train.py --cfg derain.yaml`, or pass --ckpt")

    monkeypatch.setattr(trained, "load_restorer", load)
    save(photos / "a.png")
    assert run(photos) == 2
    assert capsys.readouterr().err == (
        "restore.py: no run in runs/: train one with `python train.py --cfg derain.yaml`, or pass --ckpt\n"
    )
    assert not (photos.parent / "out").exists()
