"""Metadata goes from file to file: a damaged field costs no other, and each field left out is named."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import ICC, exif_of, noise, rewritten
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from restore_diff.data.decoding import decode, read_size
from restore_diff.data.images import read_image, write_image
from restore_diff.data.metadata import HELD, NAMES, STRIPPED, Metadata, fit, photoshop_segment, upright_exif

PIXELS = noise(6, 9, 3)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description dc:creator="A"/></x:xmpmeta>'
CREATOR = b"\x1c\x02\x50\x00\x05Maker"
IPTC = b"8BIM\x04\x04\0\0\0\0\0\x0a" + CREATOR
THUMBNAIL = b"8BIM\x04\x0c\0\0\0\0\0\x04tiny"
MAKE, MODEL, X_RESOLUTION, ODD = 271, 272, 282, 0x9C9B
SUFFIXES = (".jpg", ".png", ".tif", ".webp", ".avif", ".heic", ".bmp")


def exif_block(*entries: tuple[int, int, int, bytes], order: str = ">", next_directory: int = 0) -> bytes:
    """An EXIF block of (tag, type, count, value of 4 bytes or longer)."""
    start = 8 + 2 + 12 * len(entries) + 4
    block = {">": b"MM\0*", "<": b"II*\0"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    values = b""
    for tag, kind, count, value in entries:
        place = value if len(value) == 4 else struct.pack(f"{order}I", start + len(values))
        values += value if len(value) > 4 else b""
        block += struct.pack(f"{order}HHI", tag, kind, count) + place
    return block + struct.pack(f"{order}I", next_directory) + values


MAKER = (MAKE, 2, 6, b"Maker\0")
CAMERA = (MODEL, 2, 7, b"Camera\0")
DAMAGED = {
    "type": (ODD, 2, 9, b"\0\0\xff\xff"),
    "unknown type": (ODD, 99, 1, b"\0\0\0\1"),
    "place": (ODD, 5, 1, b"\x7f\xff\xff\xff"),
    "resolution": (X_RESOLUTION, 5, 1, struct.pack(">II", 0, 0)),
    "resolution as text": (X_RESOLUTION, 2, 8, b"no dots\0"),
    "tag of TIFF storage": (257, 3, 1, b"\0\x20\0\0"),
    "count": (ODD, 3, 2**30, b"\0\0\0\1"),
}


def saved(path: Path, **options) -> Path:
    Image.fromarray(PIXELS).save(path, **options)
    return path


def tags(path: Path) -> dict[int, object]:
    return {tag: value for tag, value in exif_of(path).items() if tag in (MAKE, MODEL)}


@pytest.mark.parametrize("suffix", SUFFIXES[:-1])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_exif_tag_costs_no_other(tmp_path, damage, suffix):
    entries = sorted([MAKER, CAMERA, DAMAGED[damage], (0x0112, 3, 1, b"\0\6\0\0")])
    path = saved(tmp_path / "in.jpg", exif=b"Exif\0\0" + exif_block(*entries))
    assert read_size(path) == (9, 6)
    _, lost, out = rewritten(path, suffix)
    assert read_size(out) == (9, 6) and decode(out).samples.shape == (3, 9, 6)
    assert tags(out) == {MAKE: "Maker", MODEL: "Camera"}
    if suffix == ".tif":
        with Image.open(out) as image:
            tag = DAMAGED[damage][0]
            assert tag == 257 or tag in image.tag_v2 or lost == [f"EXIF tags 0x{tag:04x} (damaged)"]
    else:
        assert not lost


@pytest.mark.parametrize("order", "<>")
def test_exif_is_kept_byte_for_byte_without_orientation_and_thumbnail(tmp_path, order):
    short = struct.pack(f"{order}HH", 8, 0)
    note = (ODD, 7, 20, b"offsets of the maker")
    block = exif_block(MAKER, (0x0112, 3, 1, short), note, order=order, next_directory=50)
    orientation, kept = upright_exif(block, [])
    assert orientation == 8 and len(kept) == len(block)
    start, before, after = 10, block[10:46], kept[10:]
    assert struct.unpack_from(f"{order}H", kept, 8) == (2,)
    assert after[:24] == before[:12] + before[24:36] and after[24:28] == bytes(4)
    assert kept[start + 40 :] == block[start + 40 :]
    assert upright_exif(kept, []) == (0, kept)
    lost: list[str] = []
    assert upright_exif(b"no TIFF structure", lost) == (0, b"") and lost == ["EXIF (damaged)"]
    assert upright_exif(b"", lost) == (0, b"") and len(lost) == 1


@pytest.mark.parametrize("source", [".jpg", ".png", ".tif", ".bmp"])
@pytest.mark.parametrize("target", SUFFIXES)
def test_resolution_is_kept_or_named(tmp_path, source, target):
    _, lost, out = rewritten(saved(tmp_path / f"in{source}", dpi=(300, 150)), target)
    assert not lost
    if target in (".webp", ".avif", ".heic"):  # in EXIF
        assert [exif_of(out)[tag] for tag in (282, 283)] == pytest.approx([300, 150], rel=1e-3)
    else:
        with Image.open(out) as image:
            assert [round(float(dots)) for dots in image.info["dpi"]] == pytest.approx([300, 150], rel=1e-3)


def test_resolution_beside_exif_that_cannot_be_extended_is_named(tmp_path):
    path = saved(tmp_path / "in.jpg", dpi=(300, 150), exif=b"Exif\0\0" + exif_block(MAKER))
    _, lost, out = rewritten(path, ".webp")
    assert lost == ["resolution"] and tags(out) == {MAKE: "Maker"}


@pytest.mark.parametrize("target", SUFFIXES)
def test_no_resolution_is_made_up(tmp_path, target):
    _, lost, out = rewritten(saved(tmp_path / "in.png"), target)
    assert not lost
    assert decode(out).metadata.dpi is None


@pytest.mark.parametrize("target", SUFFIXES)
def test_xmp_iptc_comments_and_text_are_kept_or_named(tmp_path, target):
    path = saved(tmp_path / "in.jpg", xmp=XMP, comment="a note é", extra=photoshop_segment(THUMBNAIL + IPTC))
    _, lost, out = rewritten(path, target)
    kept = {".jpg": 3, ".png": 2, ".tif": 2, ".bmp": 0}.get(target, 1)
    assert len(lost) == 3 - kept
    found, content = decode(out).metadata, out.read_bytes()
    assert found.xmp == (b"" if "XMP" in lost else XMP)
    assert (CREATOR in content) is ("IPTC" not in lost) and b"tiny" not in content
    assert ("comment" in lost) or "a note é" in (found.comment, dict(found.texts).get("Comment"))
    if target == ".tif":
        again = rewritten(out, ".jpg")[2]
        assert CREATOR in again.read_bytes()


def test_text_of_png_is_kept_also_after_the_pixels(tmp_path):
    info = PngInfo()
    info.add_text("Author", "somebody")
    info.add_itxt("Comment", "日本", zip=True)
    path = saved(tmp_path / "in.png", pnginfo=info)
    late = b"tEXtTitle\0late"
    chunk = struct.pack(">I", len(late) - 4) + late + struct.pack(">I", zlib.crc32(late))
    path.write_bytes(path.read_bytes()[:-12] + chunk + path.read_bytes()[-12:])
    _, lost, out = rewritten(path, ".png")
    with Image.open(out) as image:
        assert image.text == {"Author": "somebody", "Comment": "日本", "Title": "late"} and not lost
    _, lost, out = rewritten(path, ".jpg")
    assert lost == ["text"] and decode(out).metadata.comment == "日本"


def test_text_named_like_another_field_costs_neither(tmp_path):
    info = PngInfo()
    for name in ("exif", "dpi", "icc_profile", "xmp", "gamma", "transparency"):
        info.add_text(name, "a text")
    _, lost, out = rewritten(saved(tmp_path / "in.png", pnginfo=info, dpi=(300, 300)), ".png")
    with Image.open(out) as image:
        assert set(image.text.values()) == {"a text"} and len(image.text) == 6 and not lost


GAMMA = (b"gAMA", struct.pack(">I", 100000))
WHITE = (b"cHRM", struct.pack(">8I", 34567, 35850, 64000, 33000, 21000, 71000, 15000, 6000))
SRGB = (b"sRGB", b"\0")
HDR = (b"cICP", bytes([9, 16, 0, 1]))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("chunks", [[GAMMA], [WHITE, GAMMA], [SRGB], [HDR]], ids=str)
def test_colour_chunks_of_png_are_kept_or_named(tmp_path, chunks, deep):
    info = PngInfo()
    for kind, content in chunks:
        info.add(kind, content)
    image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257) if deep else Image.fromarray(PIXELS)
    image.save(tmp_path / "in.png", pnginfo=info)
    _, lost, out = rewritten(tmp_path / "in.png", ".png")
    assert not lost and sorted(decode(out).metadata.colours) == sorted(chunks)
    with Image.open(out) as again:
        again.load()
        assert again.info.get("gamma") == (1.0 if GAMMA in chunks else None)
    _, lost, _ = rewritten(tmp_path / "in.png", ".jpg")
    assert ("colour description" in lost) is (chunks != [SRGB])
    if chunks == [HDR] and not deep:
        _, lost, out = rewritten(tmp_path / "in.png", ".heic")
        assert not lost and decode(out).metadata.colours == (HDR,)


@pytest.mark.parametrize("form", [b'tiff:Orientation="6"', b"<tiff:Orientation>6</tiff:Orientation>"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation_of_xmp_turns_where_exif_has_none(tmp_path, suffix, form):
    xmp = XMP.replace(b'dc:creator="A"', form) if b"=" in form else XMP.replace(b"<rdf", form + b"<rdf")
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    options = {".png": {"pnginfo": info}, ".tif": {"tiffinfo": {700: xmp}}, ".webp": {"xmp": xmp, "lossless": True}}
    path = saved(tmp_path / f"in{suffix}", **options.get(suffix, {"xmp": xmp}))
    assert read_size(path) == (9, 6) and decode(path).samples.shape == (3, 9, 6)
    _, lost, out = rewritten(path, suffix)
    assert not lost and read_size(out) == (9, 6) and decode(out).samples.shape == (3, 9, 6)
    assert b"tiff:Orientation" not in out.read_bytes() or form.replace(b"6", b"1") in out.read_bytes()


def test_the_orientation_of_exif_is_taken_before_that_of_xmp(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 1
    path = saved(tmp_path / "a.jpg", xmp=b'<x tiff:Orientation="6"/>', exif=exif.tobytes())
    assert read_size(path) == (6, 9) and b'Orientation="1"' in decode(path).metadata.xmp


def test_metadata_that_is_too_long_for_jpeg_is_named_and_the_rest_kept(tmp_path):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode() + " " * 70000)
    path = saved(tmp_path / "in.png", pnginfo=info, exif=b"Exif\0\0" + exif_block(MAKER))
    _, lost, out = rewritten(path, ".jpg")
    assert lost == ["XMP (longer than 64 KB)"] and tags(out) == {MAKE: "Maker"}


def test_stripping_leaves_colour_and_resolution(tmp_path):
    info = PngInfo()
    info.add_text("Author", "somebody")
    options = {"exif": b"Exif\0\0" + exif_block(MAKER), "pnginfo": info, "dpi": (300, 300), "icc_profile": ICC}
    image = read_image(saved(tmp_path / "in.png", **options))
    stripped = replace(image, metadata=replace(image.metadata, **STRIPPED))
    assert write_image(tmp_path / "out.png", image.pixels, stripped) == []
    found, content = decode(tmp_path / "out.png").metadata, (tmp_path / "out.png").read_bytes()
    assert found.icc_profile == ICC and found.dpi == image.metadata.dpi is not None
    assert b"Maker" not in content and b"somebody" not in content


@pytest.mark.parametrize("kind", HELD)
def test_each_field_is_written_or_named(kind):
    full = Metadata(ICC, exif_block(MAKER), XMP, IPTC, "note", (("Author", "A"),), (300, 300), (GAMMA,))
    fields, left_out = fit(full, kind)
    named = set(fields) | {field for field, name in NAMES.items() if name in left_out}
    assert named == set(NAMES) - (set() if kind == "PNG" else {"colours"})  # the profile says it all


def test_bigtiff_is_written_as_classic_tiff(tmp_path):
    import tifffile

    extra = [(MAKE, "s", 0, "Maker", True), (33723, "B", len(CREATOR), CREATOR, True)]
    for array in (PIXELS, PIXELS.astype(np.uint16) * 257):
        path = tmp_path / "in.tif"
        tifffile.imwrite(path, array, bigtiff=True, photometric="rgb", resolution=(300, 300), extratags=extra)
        for suffix in (".tif", ".jpg"):
            _, lost, out = rewritten(path, suffix)
            assert CREATOR in out.read_bytes() and tags(out) == {MAKE: "Maker"}
            assert lost == (["bit depth (8 of 16)"] if suffix == ".jpg" and array.dtype != np.uint8 else [])
        with tifffile.TiffFile(tmp_path / "out.tif") as written:
            assert not written.is_bigtiff and np.array_equal(written.asarray(), array)
