"""Image files of 8 and 16 bits are read and written with their metadata; unreadable ones give a one-line error."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile  # scikit-image brings it
import torch
from PIL import Image, ImageCms, ImageOps

from restore_diff.data.decoding import decode, read_size
from restore_diff.data.encoding import encode_png, encode_tiff
from restore_diff.data.images import ImageError, RasterImage, read_image, read_rgb_uint8, write_image
from restore_diff.data.names import is_image

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GPS, CAMERA, ORIENTATION = 0x8825, 0x8769, 0x0112
SCANNED = [
    {},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True},
    {"tile": (16, 16)},
    {"tile": (16, 16), "compression": "zlib", "predictor": True},
    {"rowsperstrip": 3, "compression": "zlib"},
]


def noise(*shape: int, bits: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**bits, shape, dtype=f"uint{bits}")


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[ORIENTATION] = orientation
    block[0x010F] = "Maker"
    block.get_ifd(GPS)[2] = (1.0, 2.0, 3.0)
    return block.tobytes()


def saved(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def rewritten(path: Path, suffix: str) -> tuple[RasterImage, Path]:
    """Read a file and write it again; return both."""
    image, out = read_image(path), path.with_name(f"out{suffix}")
    write_image(out, image.pixels, like=image)
    return image, out


def refusal(path: Path, read=read_image) -> str:
    with pytest.raises(ImageError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_written_pixels_are_read_back_in_the_same_mode(tmp_path, suffix, channels):
    lossless = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    original = saved(tmp_path / f"in{suffix}", noise(7, 5, *channels), **lossless)
    image, copy = rewritten(original, ".png" if suffix == ".webp" else suffix)
    assert torch.equal(decode(copy).samples, decode(original).samples)
    assert suffix == ".webp" or len(decode(copy).samples) == (channels[0] if channels else 1)
    with Image.open(original) as before, Image.open(copy) as after:  # Pillow ignores undeclared alpha of BMP
        assert after.mode == before.mode or (suffix, after.mode) == (".bmp", "RGBA")
        assert np.array_equal(np.asarray(after.convert("RGB")), np.asarray(before.convert("RGB")))
    assert image.pixels.shape == (3, 7, 5) and image.pixels.dtype == torch.float32


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_keeps_all_bits_of_every_colour_type(tmp_path, channels):
    levels = torch.from_numpy(noise(channels, 9, 6, bits=16).astype(np.int32))
    (tmp_path / "in.png").write_bytes(encode_png(levels, {"exif": exif(1)[6:], "icc_profile": ICC}))
    image, out = rewritten(tmp_path / "in.png", ".png")
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
    image, out = rewritten(saved(tmp_path / f"in{suffix}", array), suffix)
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
    image, out = rewritten(path, suffix)
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


def test_palette_one_bit_cmyk_and_gif_become_plain_pictures(tmp_path):
    colours = Image.fromarray(noise(8, 8, 3))
    palette = colours.quantize(16)
    palette.save(tmp_path / "palette.png")
    expected = torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(read_rgb_uint8(tmp_path / "palette.png"), expected)

    palette.save(tmp_path / "hole.png", transparency=0)
    assert read_image(tmp_path / "hole.png").alpha is not None
    assert "transparent" in refusal(tmp_path / "hole.png", read_rgb_uint8)

    Image.fromarray(noise(8, 8) > 127).save(tmp_path / "bit.png")
    assert read_image(tmp_path / "bit.png").grey

    colours.convert("CMYK").save(tmp_path / "print.jpg", quality=100, icc_profile=b"not a profile")
    printed = read_image(tmp_path / "print.jpg")
    assert (
        not printed.metadata.icc_profile and not printed.grey and (printed.pixels - expected / 255).abs().mean() < 0.2
    )

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
    assert {path.name for path in tmp_path.iterdir()} == {"rgba.png", "deep.png", "deep.jpg"}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", noise(4, 4, 3))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_image(path, torch.rand(3, 4, 4))
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    monkeypatch.undo()
    longest = tmp_path / ("n" * 251 + ".png")
    write_image(longest, torch.rand(3, 4, 4))
    assert is_image(longest)


def test_a_name_with_control_characters_stays_on_one_line(tmp_path):
    path = tmp_path / "two\nlines.png"
    path.write_text("no picture")
    with pytest.raises(ImageError, match=r"two\\nlines\.png: not an image"):
        read_image(path)


def scan(path, array, **options):
    if array.ndim == 3:
        options = {"photometric": "rgb", "extrasamples": ["unassalpha"] * (array.shape[-1] - 3)} | options
    tifffile.imwrite(path, array, **options)
    return path


def samples_of(image):
    planes = [image.pixels] + ([image.alpha] if image.alpha is not None else [])
    return (torch.cat(planes) * 65535).round().int().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("options", SCANNED, ids=str)
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("channels", [3, 4])
def test_48_and_64_bit_tiff_is_read_and_written_in_full_depth(tmp_path, options, byteorder, channels):
    array = noise(33, 47, channels, bits=16)
    path = scan(tmp_path / "in.tif", array, byteorder=byteorder, **options)
    for suffix in (".tif", ".png"):
        image, out = rewritten(path, suffix)
        assert image.bit_depth == 16 and not image.grey
        assert np.array_equal(samples_of(image), array) and np.array_equal(samples_of(read_image(out)), array)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), array)  # read by another library


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_48_bit_tiff_is_written_upright(tmp_path, orientation):
    path = scan(tmp_path / "in.tif", noise(5, 9, 3, bits=16), extratags=[(274, "H", 1, orientation, True)])
    turned, out = rewritten(path, ".tif")
    with Image.open(path) as shown:  # Pillow shows the high bytes, upright
        assert np.array_equal(samples_of(turned) // 256, np.asarray(shown))
    assert np.array_equal(tifffile.imread(out), samples_of(turned))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_16_bit_tiff_keeps_its_metadata(tmp_path, channels):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 1
    exif.get_ifd(GPS)[2] = (1.0, 2.0, 3.0)
    exif.get_ifd(CAMERA)[36867] = "2026:01:02 03:04:05"
    samples = torch.from_numpy(noise(channels, 6, 4, bits=16).astype(np.int32))
    (tmp_path / "in.tif").write_bytes(encode_tiff(samples, {"exif": exif.tobytes()[6:], "icc_profile": ICC}, []))
    with Image.open(rewritten(tmp_path / "in.tif", ".tif")[1]) as after:
        assert after.info["icc_profile"] == ICC and after.getexif()[0x010F] == "Maker"
        assert after.getexif().get_ifd(GPS)[2] == (1.0, 2.0, 3.0)
        assert after.getexif().get_ifd(CAMERA)[36867] == "2026:01:02 03:04:05"


def test_16_bit_grey_with_alpha_is_written_as_a_colour_tiff(tmp_path):
    planes = noise(2, 6, 4, bits=16)
    (tmp_path / "in.png").write_bytes(encode_png(torch.from_numpy(planes.astype(np.int32)), {}))
    expected = np.stack([planes[0]] * 3 + [planes[1]], axis=-1)
    assert np.array_equal(tifffile.imread(rewritten(tmp_path / "in.png", ".tif")[1]), expected)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_grey_whose_white_is_zero_is_not_read_as_a_negative(tmp_path, compression):
    array = noise(5, 7, bits=16)
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="miniswhite", compression=compression)
    image, out = rewritten(tmp_path / "in.tif", ".tif")
    assert np.array_equal(samples_of(image)[..., 0], 65535 - array) and np.array_equal(
        tifffile.imread(out), 65535 - array
    )


SEPARATE = {"photometric": "rgb", "planarconfig": "separate"}
GREY_ALPHA = {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}


@pytest.mark.parametrize(
    ("dtype", "shape", "options"),
    [
        (np.uint16, (3, 4, 4), SEPARATE | {"compression": "zlib"}),
        (np.uint16, (3, 4, 4), SEPARATE),
        (np.uint16, (4, 4, 4), {"photometric": "separated", "extrasamples": []}),
        (np.uint16, (4, 4, 2), GREY_ALPHA),
        *((dtype, (4, 4), {}) for dtype in (np.float16, np.float32, np.float64, np.int16, np.uint32, np.complex64)),
        *((dtype, (4, 4, 3), {"photometric": "rgb"}) for dtype in (np.float32, np.int16)),
    ],
)
def test_depth_that_would_be_reduced_is_refused(tmp_path, dtype, shape, options):
    tifffile.imwrite(tmp_path / "a.tif", noise(*shape, bits=16).astype(dtype), **options)
    with pytest.raises(ImageError, match=r"^[^\n]*save it as (8-bit or 16-bit )?PNG[^\n]*$"):
        read_image(tmp_path / "a.tif")


def test_a_16_bit_png_with_a_transparent_colour_is_refused(tmp_path):
    Image.fromarray(noise(4, 4, bits=16)).save(tmp_path / "a.png", transparency=7)
    with pytest.raises(ImageError, match="full depth"):
        read_image(tmp_path / "a.png")


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


@pytest.mark.parametrize("alpha", [255, 254])
def test_only_opaque_alpha_is_left_out_of_a_jpeg(tmp_path, alpha):
    rgba = np.full((8, 8, 4), 255, np.uint8)
    rgba[0, 0, 3] = alpha
    Image.fromarray(rgba).save(tmp_path / "a.png")
    if alpha < 255:
        with pytest.raises(ImageError, match="JPEG holds no transparency"):
            rewritten(tmp_path / "a.png", ".jpg")
    else:
        with Image.open(rewritten(tmp_path / "a.png", ".jpg")[1]) as after:
            assert after.mode == "RGB"


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
