"""Image files of 8 and 16 bits are read and written with their metadata; unreadable ones give a one-line error."""

import os
import re
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile  # scikit-image brings it
import torch
from pictures import ICC, noise, planes, refusal, rewritten, saved
from PIL import Image, ImageOps

from restore_diff.data.decoding import decode, read_size
from restore_diff.data.encoding import encode_png, encode_tiff
from restore_diff.data.images import ImageError, read_image, read_rgb_uint8, write_image
from restore_diff.data.names import is_image

GPS, CAMERA, ORIENTATION = 0x8825, 0x8769, 0x0112
SCANNED = [
    {},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True},
    {"tile": (16, 16)},
    {"tile": (16, 16), "compression": "zlib", "predictor": True},
    {"rowsperstrip": 3, "compression": "zlib"},
]


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[ORIENTATION] = orientation
    block[0x010F] = "Maker"
    block.get_ifd(GPS)[2] = (1.0, 2.0, 3.0)
    return block.tobytes()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_keeps_all_bits_of_every_colour_type(tmp_path, channels):
    levels = torch.from_numpy(noise(channels, 9, 6, bits=16).astype(np.int32))
    (tmp_path / "in.png").write_bytes(encode_png(levels, {"exif": exif(1)[6:], "icc_profile": ICC}))
    image, _, out = rewritten(tmp_path / "in.png", ".png")
    assert image.bit_depth == 16 and image.grey == (channels < 3) and (image.alpha is not None) == (channels % 2 == 0)
    assert torch.equal(decode(out).samples, levels)
    with Image.open(out) as after:
        if channels > 2:  # Pillow shows the high bytes
            assert np.array_equal(np.asarray(after), (levels // 256).permute(1, 2, 0).numpy())
        assert after.getexif().get_ifd(GPS)[2] == (1.0, 2.0, 3.0) and after.info["icc_profile"] == ICC
    assert "16 bits" in refusal(tmp_path / "out.png", read_rgb_uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_of_other_programs_is_read_in_full_depth(tmp_path, suffix):
    array = noise(4, 6, bits=16)
    image, _, out = rewritten(saved(tmp_path / f"in{suffix}", array), suffix)
    assert torch.equal((image.pixels[1] * 65535).round().int(), torch.from_numpy(array.astype(np.int32)))
    with Image.open(out) as after:
        assert after.mode == "I;16" and np.array_equal(np.asarray(after), array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_orientation_is_applied_once_and_metadata_kept(tmp_path, suffix, orientation):
    lossless = {"lossless": True} if suffix == ".webp" else {}
    path = saved(tmp_path / f"in{suffix}", noise(6, 9, 3), exif=exif(orientation), icc_profile=ICC, **lossless)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    image, _, out = rewritten(path, suffix)
    assert np.array_equal(read_rgb_uint8(path).permute(1, 2, 0).numpy(), upright)
    assert torch.equal(read_rgb_uint8(path), (image.pixels * 255).round().byte())
    assert read_size(path) == upright.shape[:2]
    with Image.open(out) as after:
        assert after.size == upright.shape[1::-1] and after.info["icc_profile"] == ICC
        assert after.getexif().get(ORIENTATION, 1) == 1
        assert after.getexif()[0x010F] == "Maker" and after.getexif().get_ifd(GPS)[2] == (1.0, 2.0, 3.0)


def test_orientation_after_the_pixels_of_a_png_is_applied(tmp_path):
    path = saved(tmp_path / "late.png", noise(6, 9, 3))
    content, block = path.read_bytes(), b"eXIf" + exif(6).removeprefix(b"Exif\0\0")
    late = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    path.write_bytes(content[:-12] + late + content[-12:])
    assert read_size(path) == (9, 6) and read_rgb_uint8(path).shape == (3, 9, 6)


def test_palette_cmyk_and_gif_become_plain_pictures(tmp_path):
    colours = Image.fromarray(noise(8, 8, 3))
    palette = colours.quantize(16)
    palette.save(tmp_path / "palette.png")
    expected = torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(read_rgb_uint8(tmp_path / "palette.png"), expected)

    palette.save(tmp_path / "hole.png", transparency=0)
    assert "transparent" in refusal(tmp_path / "hole.png", read_rgb_uint8)

    colours.convert("CMYK").save(tmp_path / "print.jpg", quality=100, icc_profile=b"not a profile")
    printed = read_image(tmp_path / "print.jpg")
    assert not printed.metadata.icc_profile and (printed.pixels - expected / 255).abs().mean() < 0.2

    palette.save(tmp_path / "frames.gif", save_all=True, append_images=[palette.rotate(90)])
    assert torch.equal(read_rgb_uint8(tmp_path / "frames.gif"), expected)


def test_opaque_alpha_is_accepted_for_training_and_grey_is_replicated(tmp_path):
    rgba = noise(5, 5, 4)
    rgba[..., 3] = 255
    assert read_rgb_uint8(saved(tmp_path / "rgba.png", rgba)).shape == (3, 5, 5)
    grey = noise(5, 4)
    pixels = read_rgb_uint8(saved(tmp_path / "grey.png", grey))
    assert all(np.array_equal(plane, grey) for plane in pixels.numpy())


def test_content_decides_not_the_name(tmp_path):
    saved(tmp_path / "photo.png", noise(8, 8, 3), format="JPEG")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "note").write_text("BM is how this text starts")
    (tmp_path / "empty.png").touch()
    assert is_image(tmp_path / "photo.png") and read_rgb_uint8(tmp_path / "photo.png").shape == (3, 8, 8)
    assert not is_image(tmp_path / "text.png") and "not an image" in refusal(tmp_path / "text.png")
    assert not is_image(tmp_path / "note")
    assert not is_image(tmp_path / "empty.png") and "empty" in refusal(tmp_path / "empty.png")
    assert "no such file" in refusal(tmp_path / "none.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert not is_image(tmp_path / "pipe.png") and "not a regular file" in refusal(tmp_path / "pipe.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp", "deep.png"])
def test_truncated_and_damaged_files_are_refused(tmp_path, name):
    path = tmp_path / name
    if name == "deep.png":
        write_image(path, torch.rand(3, 40, 40), read_image(saved(tmp_path / "like.png", noise(40, 40, bits=16))))
    else:
        saved(path, noise(40, 40, 3))
    content = path.read_bytes()
    if name == "a.png":
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        path.write_bytes(flipped)
        refusal(path)
    path.write_bytes(content[: len(content) * 2 // 3])
    assert "truncated" in refusal(path)
    refusal(path, read_rgb_uint8)


def claim_size(path: Path, width: int, height: int) -> Path:
    """A PNG file whose header claims a size; there are no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(data + b"\0\0\0\0IDAT\x35\xaf\x06\x1e")
    return path


def test_only_pictures_above_the_pixel_limit_are_refused(tmp_path):
    assert "30000x30000 = 900,000,000 pixels" in refusal(claim_size(tmp_path / "bomb.png", 30000, 30000))
    assert "900,000,000" in refusal(tmp_path / "bomb.png", read_rgb_uint8)
    saved(tmp_path / "small.png", noise(10, 10, 3))
    with pytest.raises(ImageError, match="10x10 = 100 pixels, the limit is 99"):
        read_image(tmp_path / "small.png", max_pixels=99)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_size(claim_size(tmp_path / "large.png", 12000, 10000)) == (10000, 12000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_levels_are_rounded_half_up_and_clamped(tmp_path):
    values = torch.tensor([-0.5, 0.4999 / 255, 0.5 / 255, 0.5, 2.0])
    write_image(tmp_path / "a.png", values.expand(3, 1, 5))
    assert read_rgb_uint8(tmp_path / "a.png")[0, 0].tolist() == [0, 0, 1, 128, 255]


def test_content_that_a_format_cannot_hold_is_refused_or_left_out(tmp_path):
    rgba = read_image(saved(tmp_path / "rgba.png", noise(4, 4, 4)))
    for name, reason in (("a.jpg", "transparency"), ("a.gif", "use .png"), ("a", "no suffix")):
        with pytest.raises(ImageError, match=reason):
            write_image(tmp_path / name, rgba.pixels, like=rgba)
    write_image(tmp_path / "opaque.jpg", rgba.pixels, like=replace(rgba, alpha=torch.ones(1, 4, 4)))
    with Image.open(tmp_path / "opaque.jpg") as after:
        assert after.mode == "RGB"
    deep = read_image(saved(tmp_path / "deep.png", noise(4, 4, bits=16)))
    write_image(tmp_path / "deep.jpg", deep.pixels, like=deep)
    with Image.open(tmp_path / "deep.jpg") as after:
        assert after.mode == "L"
    with pytest.raises(ImageError, match="finite"):
        write_image(tmp_path / "nan.png", torch.full((3, 2, 2), torch.nan))
    with pytest.raises(ValueError, match=r"\(3, 2, 2\)"):
        write_image(tmp_path / "size.png", torch.zeros(3, 2, 2), like=deep)
    with pytest.raises(ImageError, match="cannot be written as WEBP"):
        write_image(tmp_path / "long.webp", torch.zeros(3, 1, 17000))
    assert {path.name for path in tmp_path.iterdir()} == {"rgba.png", "opaque.jpg", "deep.png", "deep.jpg"}


def test_the_longest_name_of_a_file_is_written(tmp_path):
    write_image(tmp_path / ("n" * 251 + ".png"), torch.rand(3, 4, 4))
    assert is_image(tmp_path / ("n" * 251 + ".png"))


def test_a_name_with_control_characters_stays_on_one_line(tmp_path):
    path = tmp_path / "two\nlines.png"
    path.write_text("no picture")
    with pytest.raises(ImageError, match=r"two\\nlines\.png: not an image"):
        read_image(path)


@pytest.mark.parametrize("options", SCANNED, ids=str)
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("channels", [3, 4])
def test_48_and_64_bit_tiff_is_read_and_written_in_full_depth(tmp_path, options, byteorder, channels):
    array = noise(33, 47, channels, bits=16)
    path, alpha = tmp_path / "in.tif", ["unassalpha"] * (channels - 3)
    tifffile.imwrite(path, array, photometric="rgb", extrasamples=alpha, byteorder=byteorder, **options)
    for suffix in (".tif", ".png"):
        image, _, out = rewritten(path, suffix)
        assert image.bit_depth == 16 and not image.grey
        assert np.array_equal(planes(path), array) and np.array_equal(planes(out), array)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), array)  # read by another library


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_48_bit_tiff_is_written_upright(tmp_path, orientation):
    path, turned = tmp_path / "in.tif", [(274, "H", 1, orientation, True)]
    tifffile.imwrite(path, noise(5, 9, 3, bits=16), photometric="rgb", extratags=turned)
    with Image.open(path) as shown:  # Pillow shows the high bytes, upright
        assert np.array_equal(planes(path) // 256, np.asarray(shown))
    assert np.array_equal(tifffile.imread(rewritten(path, ".tif")[2]), planes(path))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_16_bit_tiff_keeps_its_metadata(tmp_path, channels):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 1
    exif.get_ifd(GPS)[2] = (1.0, 2.0, 3.0)
    exif.get_ifd(CAMERA)[36867] = "2026:01:02 03:04:05"
    samples = torch.from_numpy(noise(channels, 6, 4, bits=16).astype(np.int32))
    (tmp_path / "in.tif").write_bytes(encode_tiff(samples, {"exif": exif.tobytes()[6:], "icc_profile": ICC}, []))
    with Image.open(rewritten(tmp_path / "in.tif", ".tif")[2]) as after:
        assert after.info["icc_profile"] == ICC and after.getexif()[0x010F] == "Maker"
        assert after.getexif().get_ifd(GPS)[2] == (1.0, 2.0, 3.0)
        assert after.getexif().get_ifd(CAMERA)[36867] == "2026:01:02 03:04:05"


def test_16_bit_grey_with_alpha_is_written_as_a_colour_tiff(tmp_path):
    planes = noise(2, 6, 4, bits=16)
    (tmp_path / "in.png").write_bytes(encode_png(torch.from_numpy(planes.astype(np.int32)), {}))
    expected = np.stack([planes[0]] * 3 + [planes[1]], axis=-1)
    assert np.array_equal(tifffile.imread(rewritten(tmp_path / "in.png", ".tif")[2]), expected)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_grey_whose_white_is_zero_is_not_read_as_a_negative(tmp_path, compression):
    array = noise(5, 7, bits=16)
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="miniswhite", compression=compression)
    assert np.array_equal(planes(tmp_path / "in.tif")[..., 0], 65535 - array)
    assert np.array_equal(tifffile.imread(rewritten(tmp_path / "in.tif", ".tif")[2]), 65535 - array)


SEPARATE = {"photometric": "rgb", "planarconfig": "separate"}
GREY_ALPHA = {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}


@pytest.mark.parametrize(
    ("dtype", "shape", "options"),
    [
        (np.uint16, (3, 4, 4), SEPARATE | {"compression": "zlib"}),
        (np.uint16, (3, 4, 4), SEPARATE),
        (np.uint16, (4, 4, 4), {"photometric": "separated", "extrasamples": []}),
        (np.uint16, (4, 4, 2), GREY_ALPHA),
        *((np.dtype(kind), (4, 4), {}) for kind in ("f2", "f4", "f8", "i2", "i4", "u4", "c8")),
        *((np.dtype(kind), (4, 4, 3), {"photometric": "rgb"}) for kind in ("f4", "i2")),
    ],
)
def test_depth_that_would_be_reduced_is_refused(tmp_path, dtype, shape, options):
    tifffile.imwrite(tmp_path / "a.tif", noise(*shape, bits=16).astype(dtype), **options)
    assert re.search("save it as (8-bit or 16-bit )?PNG", refusal(tmp_path / "a.tif"))


def test_colours_without_a_plain_form_in_full_depth_are_refused(tmp_path):
    Image.new("LAB", (8, 6)).save(tmp_path / "lab.tif")
    saved(tmp_path / "transparent.png", noise(4, 4, bits=16), transparency=7)
    for name in ("lab.tif", "transparent.png"):
        assert "full depth" in refusal(tmp_path / name)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_pictures_is_read_and_all_are_counted(tmp_path, kind):
    frames = [Image.fromarray(np.full((6, 5, 3), value, np.uint8)) for value in (10, 120, 200)]
    options = {"lossless": True} if kind == "WEBP" else {}
    for num in (3, 1):
        frames[0].save(tmp_path / "a", kind, save_all=num > 1, append_images=frames[1:num], **options)
        image = read_image(tmp_path / "a")
        assert image.num_frames == num and (image.pixels * 255).round().unique().tolist() == [10]


def test_previews_and_a_damaged_second_frame_are_ignored(tmp_path):
    photograph, preview = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (4, 3), "blue")
    photograph.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    image = read_image(tmp_path / "a.jpg")
    assert image.num_frames == 1 and image.pixels.shape == (3, 6, 8)
    frames = [Image.fromarray(noise(20, 20, seed=k, bits=16).astype(np.uint8)) for k in range(2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: len(content) * 3 // 4])
    first = (read_image(tmp_path / "a.gif").pixels[0] * 255).round().byte().numpy()
    assert np.array_equal(first, np.asarray(frames[0]))


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch x)(w)file\n%%EOF\n",
        b"<svg></svg>",
    ],
)
def test_formats_that_run_programs_are_not_read(tmp_path, content):
    for name in ("a.eps", "a.svg", "a.png"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match="not an image of a known format"):
            read_image(tmp_path / name)
