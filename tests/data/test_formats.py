"""Formats of phones, cameras and other programs: read in full, or refused by name; never a preview, never silence."""

import ast
import io
import struct
from pathlib import Path

import numpy as np
import PIL
import pillow_heif
import pytest
import tifffile  # scikit-image brings it
import torch
from pictures import ICC, exif_of, noise, planes, refusal, saved
from PIL import Image

from restore_diff.data import decoding, encoding, formats, images, metadata, readers
from restore_diff.data.decoding import decode, read_size
from restore_diff.data.images import ImageError, read_image, read_rgb_uint8, write_image
from restore_diff.data.names import is_image
from restore_diff.restoration.sources import Naming, find_sources

SMOOTH = np.stack([np.add.outer(np.arange(48) * 3, np.arange(64) * k) % 256 for k in (1, 2, 1)], -1).astype(np.uint8)
LOSSLESS = {"quality": -1, "matrix_coefficients": 0, "chroma": 444}


def heic(path: Path, array: np.ndarray, **options) -> Path:
    """Write (H,W,C) without loss: uint8, or uint16 of which HEIC keeps the upper 10 bits."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[array.shape[2]] + (";16" if array.dtype == np.uint16 else "")
    buffer = io.BytesIO()
    pillow_heif.encode(mode, array.shape[1::-1], array.tobytes(), buffer, **LOSSLESS, **options)
    path.write_bytes(buffer.getvalue())
    return path


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_heic_is_read_bit_for_bit_whatever_its_name(tmp_path, channels):
    array = noise(6, 8, channels)
    for name in ("IMG_1.HEIC", "IMG_1.jpg"):
        path = heic(tmp_path / name, array)
        assert is_image(path) and np.array_equal(planes(path), array) and read_size(path) == (6, 8)


def test_10_bit_heic_fills_16_bits_and_comes_back(tmp_path):
    levels = np.linspace(0, 1023, 16 * 12 * 3).round().astype(np.uint16).reshape(16, 12, 3)
    image = read_image(heic(tmp_path / "a.heic", levels << 6))
    expected = (levels.astype(np.float64) * 65535 / 1023).round().astype(np.int32)
    assert image.bit_depth == 16 and np.array_equal(planes(tmp_path / "a.heic"), expected)
    assert write_image(tmp_path / "a.png", image.pixels, image) == []
    assert np.array_equal(planes(tmp_path / "a.png"), expected)
    assert write_image(tmp_path / "b.heic", image.pixels, image, quality=100) == []
    assert write_image(tmp_path / "b.jpg", image.pixels, image) == ["bit depth (8 of 10)"]
    assert decode(tmp_path / "b.heic").bit_depth == 16
    assert np.abs(planes(tmp_path / "b.heic") - expected).max() < 65535 / 100


@pytest.mark.parametrize("ending", ["heic", "avif"])
def test_phone_files_are_written_in_their_format_upright_with_metadata(tmp_path, ending):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    path = tmp_path / f"in.{ending}"
    carried = {"exif": exif.tobytes(), "icc_profile": ICC, "xmp": xmp}
    if ending == "heic":
        pillow_heif.from_pillow(Image.fromarray(SMOOTH)).save(path, quality=95, subsampling="4:4:4", **carried)
    else:
        Image.fromarray(SMOOTH).save(path, quality=95, subsampling="4:4:4", **carried)
    image = read_image(path)
    assert read_size(path) == (64, 48) and image.pixels.shape == (3, 64, 48)
    assert np.abs(planes(path).astype(int) - np.rot90(SMOOTH, -1)).mean() < 4
    assert write_image(tmp_path / f"out.{ending}", image.pixels, image) == []
    again = decode(tmp_path / f"out.{ending}")
    assert (again.samples.int() - (image.pixels * 255).round().int()).abs().float().mean() < 4
    assert again.metadata.icc_profile == ICC
    assert b"xmpmeta" in again.metadata.xmp and b'Orientation="6"' not in again.metadata.xmp
    block = exif_of(tmp_path / f"out.{ending}")
    assert block[0x010F] == "Maker" and 0x0112 not in block


@pytest.mark.parametrize("kind", ["AVIF of 10", "AVIF of 12", "JXL of 16"])
def test_depth_beyond_pillow_is_read_by_imagecodecs_or_refused(tmp_path, monkeypatch, kind):
    imagecodecs = pytest.importorskip("imagecodecs")
    bits = int(kind[-2:])
    levels = np.linspace(0, 2**bits - 1, 16 * 12 * 3).round().astype(np.uint16).reshape(16, 12, 3)
    path = tmp_path / f"a.{kind[:4].strip().lower()}"
    if kind.startswith("JXL"):
        pytest.importorskip("pillow_jxl")
        path.write_bytes(imagecodecs.jpegxl_encode(levels, lossless=True))
    else:
        path.write_bytes(imagecodecs.avif_encode(levels, level=100, bitspersample=bits))
    assert np.array_equal(planes(path), (levels.astype(np.float64) * 65535 / (2**bits - 1)).round().astype(np.int32))
    monkeypatch.setattr(readers, "find_spec", lambda name: None)
    assert f"{kind} bits per sample needs another package: pip install 'restore_diff[deep]'" in refusal(path)


def test_the_primary_of_several_pictures_is_read_and_gain_maps_are_said_to_be_dropped(tmp_path):
    file = pillow_heif.HeifFile()
    for value in (10, 200):
        file.add_frombytes("RGB", (8, 6), bytes([value]) * 144)
    file.save(tmp_path / "a.heic", primary_index=1, **LOSSLESS)
    image = read_image(tmp_path / "a.heic")
    assert image.num_frames == 2 and (image.pixels * 255).round().unique().tolist() == [200]
    xmp = b'<rdf xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
    photograph, gain = Image.fromarray(SMOOTH), Image.fromarray(SMOOTH[::2, ::2])
    photograph.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[gain], xmp=xmp)
    image = read_image(tmp_path / "a.jpg")
    assert write_image(tmp_path / "b.jpg", image.pixels, image) == ["gain map"]
    assert not decode(tmp_path / "b.jpg").metadata.xmp


@pytest.mark.parametrize(
    ("kind", "channels"), [("JPEG2000", (3, 4, 1)), ("PPM", (3, 1)), ("QOI", (3, 4)), ("TGA", (3, 4, 1))]
)
def test_other_formats_are_read_bit_for_bit(tmp_path, kind, channels):
    ending = {"JPEG2000": "jp2"}.get(kind, kind.lower())
    for count in channels:
        array = noise(6, 8, count)
        path = tmp_path / f"{count}.{ending}"
        Image.fromarray(array.squeeze()).save(path, kind)
        assert np.array_equal(planes(path), array) and read_size(path) == (6, 8)
        assert Naming().name(path.name) == f"{count}.png"


@pytest.mark.parametrize("largest", [1023, 65535])
@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_deep_ppm_is_read_in_full_depth(tmp_path, largest, kind):
    array = np.random.default_rng(0).integers(0, largest + 1, (5, 4, 3 if kind == "P6" else 1))
    path = tmp_path / "a.ppm"
    path.write_bytes(f"{kind}\n# comment\n4 5\n{largest}\n".encode() + array.astype(">u2").tobytes())
    assert decode(path).bit_depth == 16
    assert np.array_equal(planes(path), (array * 65535 / largest).round().astype(np.int32))
    path.write_bytes(path.read_bytes()[:-2])
    refusal(path)
    path.write_text(f"P3\n1 1\n{largest}\n1 2 3\n")
    assert "full depth" in refusal(path)


def test_deep_jpeg_2000_in_colour_is_refused(tmp_path):
    """Pillow keeps 16 bits of grey only."""
    grey = noise(6, 8, bits=16)
    Image.fromarray(grey).save(tmp_path / "grey.jp2")
    assert np.array_equal(planes(tmp_path / "grey.jp2")[..., 0], grey)
    Image.fromarray(noise(6, 8, 3)).save(tmp_path / "a.jp2")
    content = bytearray((tmp_path / "a.jp2").read_bytes())
    start = content.index(b"\xff\x4f\xff\x51") + 42
    content[start : start + 9 : 3] = bytes([15] * 3)
    (tmp_path / "a.jp2").write_bytes(content)
    assert "full depth" in refusal(tmp_path / "a.jp2")


def test_a_text_named_like_a_format_without_signature_is_refused(tmp_path):
    (tmp_path / "a.tga").write_text("a text of some length that is no picture")
    assert "a.tga: " in refusal(tmp_path / "a.tga")


UNREAD = {
    "a.jxl": (b"\xff\x0a" + bytes(60), "pip install 'restore_diff[jxl]'"),
    "a.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "pip install pillow-heif"),
    "a.nef": (b"MM\0*\0\0\0\x08" + bytes(40), "pip install 'restore_diff[raw]'"),
    "a.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(40), "pip install 'restore_diff[raw]'"),
    "a.raf": (b"FUJIFILMCCD-RAW 0201" + bytes(40), "pip install 'restore_diff[raw]'"),
    "a.psd": (b"8BPS" + bytes(40), "Photoshop is not read: save it as TIFF"),
    "a.exr": (b"\x76\x2f\x31\x01" + bytes(40), "OpenEXR is not read"),
}


@pytest.fixture
def bare(monkeypatch):
    """An installation without any package for formats."""
    monkeypatch.setattr(formats, "find_spec", lambda name: None)


@pytest.mark.parametrize("name", UNREAD)
def test_a_photograph_that_cannot_be_read_is_named_with_what_to_install(tmp_path, bare, name):
    content, advice = UNREAD[name]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(content)
    found = find_sources([str(tmp_path / "in")], tmp_path / "out", is_image)
    assert [(file, advice in reason) for file, reason in found.unsupported] == [(path, True)]
    assert not found.images and not found.ignored
    renamed = path.rename(tmp_path / "in/b.jpg")
    if not name.endswith("nef"):  # without its ending it is a damaged TIFF file
        assert advice in refusal(renamed) and advice in refusal(renamed, read_size)
    assert [file for file, _ in find_sources([str(tmp_path / "in")], tmp_path / "out", is_image).images] == [renamed]


def test_files_of_other_content_are_not_taken_for_photographs(tmp_path, bare):
    for name in ("header.hdr", "notes.psd", "dump.raw"):
        (tmp_path / name).write_text("ENVI samples = 3")
    found = find_sources([str(tmp_path)], tmp_path / "out", is_image)
    assert found.ignored.total() == 3 and not found.unsupported


def dng(path: Path, size: int = 64) -> Path:
    """A camera RAW file in the layout of cameras: a black 8x8 preview first, the sensor data below it."""
    sensor = (np.tile([[0.2, 0.5], [0.5, 0.8]], (size // 2, size // 2)) * 65535).astype(np.uint16)
    matrix = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)
    tags = [(50706, "B", 4, (1, 4, 0, 0), True), (50707, "B", 4, (1, 1, 0, 0), True), (50708, "s", 0, "Test", True)]
    tags += [(271, "s", 0, "Maker", True), (50721, "2i", 9, matrix, True), (50778, "H", 1, 21, True)]
    tags += [(50728, "2I", 3, (1,) * 6, True)]
    pattern = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True), (50717, "I", 1, 65535, True)]
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8), photometric="rgb", subfiletype=1, extratags=tags, subifds=1)
        writer.write(sensor, photometric="cfa", subfiletype=0, extratags=pattern)
    return path


@pytest.mark.parametrize("name", ["a.dng", "a.nef", "a.tif"])
def test_a_camera_raw_file_is_never_restored_from_its_preview(tmp_path, bare, name):
    path = dng(tmp_path / name)
    for read in (read_image, read_size, read_rgb_uint8):
        assert "camera RAW needs another package: pip install 'restore_diff[raw]'" in refusal(path, read)


def test_a_camera_raw_file_is_developed_in_full_to_16_bits(tmp_path):
    pytest.importorskip("rawpy")
    image = read_image(dng(tmp_path / "a.dng"))
    assert image.pixels.shape == (3, 64, 64) and image.bit_depth == 16 and image.pixels.mean() > 0.3
    assert read_size(tmp_path / "a.dng") == (64, 64)
    assert "the limit is 99" in refusal(tmp_path / "a.dng", lambda path: read_image(path, max_pixels=99))
    assert Naming().name("a.DNG") == "a.tif"
    write_image(tmp_path / "a.tif", image.pixels, image)
    with Image.open(tmp_path / "a.tif") as written:
        assert written.getexif()[271] == "Maker"
    assert torch.equal(read_image(tmp_path / "a.tif").pixels, image.pixels)


def pages(path: Path, *sizes: tuple[int, int], **options) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for number, size in enumerate(sizes):
            writer.write(
                np.full((*size, 3), 50 * number, np.uint8), photometric="rgb", **(options if not number else {})
            )
    return path


def test_a_tiff_file_whose_first_picture_is_a_preview_is_refused(tmp_path):
    marked = pages(tmp_path / "marked.tif", (6, 8), (6, 8), subfiletype=1)
    assert "marked as a preview (8x6)" in refusal(marked)
    smaller = pages(tmp_path / "smaller.tif", (6, 8), (60, 80))
    assert "(8x6) is a preview of another (80x60)" in refusal(smaller)
    below = pages(tmp_path / "below.tif", (6, 8), (60, 80), subifds=1)
    assert "(8x6) is a preview of another (80x60)" in refusal(below)
    for name, sizes in (("pyramid.tif", ((60, 80), (30, 40), (15, 20))), ("pages.tif", ((6, 8), (9, 4)))):
        assert (planes(pages(tmp_path / name, *sizes)) == 0).all() and decode(tmp_path / name).num_frames == len(sizes)


def test_tiles_named_as_strips_are_read(tmp_path):
    """Old programs write the places of padded tiles under the tag for strips."""
    array = noise(37, 53)
    tifffile.imwrite(tmp_path / "a.tif", array, tile=(16, 16), photometric="minisblack")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    entries = [bytes(content[start + 2 + 12 * k :][:12]) for k in range(count)]
    names = {324: 273, 325: 279}
    changed = [struct.pack("<H", names.get(tag := int.from_bytes(e[:2], "little"), tag)) + e[2:] for e in entries]
    content[start + 2 : start + 2 + 12 * count] = b"".join(
        sorted(changed, key=lambda e: int.from_bytes(e[:2], "little"))
    )
    (tmp_path / "a.tif").write_bytes(content)
    assert np.array_equal(planes(tmp_path / "a.tif")[..., 0], array)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_tiff_layouts_are_read_right_or_refused(tmp_path, compression, tile):
    rgba = noise(37, 53, 4)
    separate = {"planarconfig": "separate", "photometric": "rgb"}
    for name, array, expected, options in (
        ("planar", np.moveaxis(rgba[..., :3], 2, 0), rgba[..., :3], separate),
        ("planar_alpha", np.moveaxis(rgba, 2, 0), rgba, separate | {"extrasamples": ["unassalpha"]}),
        ("white", rgba[..., 0], 255 - rgba[..., :1], {"photometric": "miniswhite"}),
        ("extra", rgba[..., :2], rgba[..., :1], {"photometric": "minisblack", "extrasamples": [0], "planarconfig": 1}),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, np.ascontiguousarray(array), compression=compression, tile=tile, **options)
        if name == "extra" and PIL.__version__.startswith("12."):  # which does not read it
            assert "save it as PNG" in refusal(path)
            continue
        assert np.array_equal(planes(path), expected), name
        assert decode(path).metadata.lost == (("1 extra channels",) if name == "extra" else ())
    for name, array, options in (
        ("signed", rgba[..., 0].view(np.int8), {"photometric": "minisblack"}),
        ("signed_colour", rgba[..., :3].view(np.int8), {"photometric": "rgb"}),
        (
            "planar_grey_alpha",
            np.moveaxis(rgba[..., :2], 2, 0),
            {**separate, "photometric": "minisblack", "extrasamples": [2]},
        ),
        ("planar_ycbcr", np.moveaxis(rgba[..., :3], 2, 0), {**separate, "photometric": "ycbcr"}),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, np.ascontiguousarray(array), compression=compression, tile=tile, **options)
        assert "save it as PNG" in refusal(path), name


def test_jpeg_xl_is_read_to_the_depth_that_the_plugin_keeps(tmp_path):
    pytest.importorskip("pillow_jxl")
    for count in (1, 2, 3, 4):
        array = noise(6, 8, count)
        path = tmp_path / f"{count}.jxl"
        Image.fromarray(array.squeeze()).save(path, lossless=True)
        assert is_image(path) and np.array_equal(planes(path), array) and read_size(path) == (6, 8)
        assert "the limit is 47" in refusal(path, lambda path: read_image(path, max_pixels=47))
    grey = noise(6, 8, bits=16)
    Image.fromarray(grey).save(tmp_path / "deep.jxl", lossless=True)
    assert decode(tmp_path / "deep.jxl").bit_depth == 16 and np.array_equal(planes(tmp_path / "deep.jxl")[..., 0], grey)
    assert Naming().name("a.jxl") == "a.png"


def test_packages_for_formats_are_imported_when_needed_only():
    for module in (formats, readers, decoding, encoding, metadata, images):
        statements = ast.parse(Path(str(module.__file__)).read_text()).body
        imported = {alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names}
        imported |= {str(node.module) for node in statements if isinstance(node, ast.ImportFrom)}
        heavy = {name.split(".")[0] for name in imported} & {"pillow_heif", "pillow_jxl", "rawpy", "imagecodecs"}
        assert not heavy, module


def deep_png(channels: int):
    samples = torch.from_numpy(noise(channels, 6, 8, bits=16).astype(np.int32))
    return lambda path: path.write_bytes(encoding.encode_png(samples, {}))


def plain(kind: str, *channels: int, **options):
    return lambda path: saved(path, noise(6, 8, *channels), format=kind, **options)


COLOURS = Image.fromarray(noise(6, 8, 3)).quantize(16)
MAKERS = {
    "1": lambda path: saved(path, noise(6, 8) > 127, format="PNG"),
    "L": plain("PNG"),
    "LA": plain("PNG", 2),
    "P": lambda path: COLOURS.save(path, "GIF"),
    "P with a transparent colour": lambda path: COLOURS.save(path, "PNG", transparency=0),
    "RGB": plain("PNG", 3),
    "RGBA": plain("TIFF", 4),
    "RGBA of BMP": plain("BMP", 4),  # of 32 bits, alpha is not declared, as Pillow and old programs write it
    "RGBA of an animated WebP": plain(
        "WEBP", 4, save_all=True, append_images=[Image.fromarray(noise(6, 8, 4, seed=1))], lossless=True
    ),
    "CMYK": lambda path: Image.fromarray(noise(6, 8, 4), "CMYK").save(path, "TIFF"),
    "L 16": deep_png(1),
    "LA 16": deep_png(2),
    "RGB 16": deep_png(3),
    "RGBA 16": deep_png(4),
}
GREY, GREY_ALPHA = "L L L L RGB RGB L", "LA - LA RGBA RGBA RGBA RGBA"
COLOUR, ALPHA = "RGB RGB RGB RGB RGB RGB RGB", "RGBA - RGBA RGBA RGBA RGBA RGBA"
ENDINGS = ["png", "jpg", "tif", "bmp", "webp", "avif", "heic"]
TABLE = {
    "1": GREY,
    "L": GREY,
    "LA": GREY_ALPHA,
    "P": COLOUR,
    "P with a transparent colour": ALPHA,
    "RGB": COLOUR,
    "RGBA": ALPHA,
    "RGBA of BMP": ALPHA,
    "RGBA of an animated WebP": ALPHA,
    "CMYK": COLOUR,
    "L 16": "L16 L L16 L RGB RGB L16",
    "LA 16": "LA16 - RGBA16 RGBA RGBA RGBA RGBA16",
    "RGB 16": "RGB16 RGB RGB16 RGB RGB RGB RGB16",
    "RGBA 16": "RGBA16 - RGBA16 RGBA RGBA RGBA RGBA16",
}
"""What each kind of input becomes in each format, in the order of ENDINGS; "-" is refused. Lower depth is named."""


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("mode", TABLE)
def test_every_mode_is_kept_converted_or_refused_in_every_format(tmp_path, mode, ending):
    MAKERS[mode](tmp_path / "in")
    image, out = read_image(tmp_path / "in"), tmp_path / f"out.{ending}"
    expected = TABLE[mode].split()[ENDINGS.index(ending)]
    if expected == "-":
        with pytest.raises(ImageError, match="JPEG holds no transparency"):
            write_image(out, image.pixels, image)
        return
    lost = write_image(out, image.pixels, image, quality=100)
    again = read_image(out)
    found = ("L" if again.grey else "RGB") + ("A" if again.alpha is not None else "") + "16" * (again.bit_depth == 16)
    assert found == expected
    is_shallow = mode.endswith("16") and (ending == "heic" or not expected.endswith("16"))
    assert any("bit depth" in name for name in lost) is is_shallow
    assert any("CMYK" in name for name in lost) is (mode == "CMYK")
    if ending in ("png", "tif", "bmp"):
        if again.bit_depth == 8:  # read by another program
            with Image.open(out) as shown:
                seen = np.atleast_3d(np.asarray(shown.convert("L" if again.grey else "RGB")))
            assert np.array_equal(seen, planes(out)[..., : seen.shape[2]])
        largest = 2**again.bit_depth - 1
        assert torch.equal((again.pixels * largest).round(), (image.pixels * largest + 1e-4).round())
        if image.alpha is not None and again.alpha is not None:
            assert torch.equal((again.alpha * largest).round(), (image.alpha * largest + 1e-4).round())


def test_the_fourth_byte_of_bmp_is_padding_where_it_is_constant(tmp_path):
    for value in (0, 255):
        rgba = noise(6, 8, 4)
        rgba[..., 3] = value
        Image.fromarray(rgba).save(tmp_path / "a.bmp")
        assert np.array_equal(planes(tmp_path / "a.bmp"), rgba[..., :3])
