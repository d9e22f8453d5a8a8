"""16 bits per sample as scanners and raw converters write them, and files with several pictures."""

import io

import numpy as np
import pytest
import tifffile  # scikit-image brings it
import torch
from PIL import Image, ImageCms

from restore_diff.data import images
from restore_diff.data.images import ImageError, read_image, write_image

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GPS, CAMERA = 0x8825, 0x8769
SCANNED = [
    {},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True},
    {"tile": (16, 16)},
    {"tile": (16, 16), "compression": "zlib", "predictor": True},
    {"rowsperstrip": 3, "compression": "zlib"},
]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)


def scan(path, array, **options):
    if array.ndim == 3:
        options = {"photometric": "rgb", "extrasamples": ["unassalpha"] * (array.shape[-1] - 3)} | options
    tifffile.imwrite(path, array, **options)
    return path


def levels(image, alpha=True):
    planes = [image.pixels] + ([image.alpha] if alpha and image.alpha is not None else [])
    return (torch.cat(planes) * 65535).round().int().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("options", SCANNED, ids=str)
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("channels", [3, 4])
def test_a_tiff_of_48_and_64_bits_is_read_and_written_in_full_depth(tmp_path, options, byteorder, channels):
    array = noise(33, 47, channels)
    image = read_image(scan(tmp_path / "in.tif", array, byteorder=byteorder, **options))
    assert image.bit_depth == 16 and not image.grey
    assert np.array_equal(levels(image), array)
    for suffix in (".tif", ".png"):
        write_image(tmp_path / f"out{suffix}", image.pixels, like=image)
        assert np.array_equal(levels(read_image(tmp_path / f"out{suffix}")), array)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), array)  # another program's eyes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_of_48_bits_comes_out_upright(tmp_path, orientation):
    array = noise(5, 9, 3)
    turned = read_image(scan(tmp_path / "in.tif", array, extratags=[(274, "H", 1, orientation, True)]))
    with Image.open(tmp_path / "in.tif") as shown:  # Pillow shows the high bytes, upright
        assert np.array_equal(levels(turned) // 256, np.asarray(shown))
    write_image(tmp_path / "out.tif", turned.pixels, like=turned)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), levels(turned))


def test_a_deep_tiff_keeps_its_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 1
    exif.get_ifd(GPS)[2] = (1.0, 2.0, 3.0)
    exif.get_ifd(CAMERA)[36867] = "2026:01:02 03:04:05"
    for channels in (1, 3, 4):
        samples = torch.from_numpy(noise(channels, 6, 4).astype(np.int32))
        (tmp_path / "in.tif").write_bytes(images.encode_tiff(samples, exif.tobytes(), ICC))
        image = read_image(tmp_path / "in.tif")
        write_image(tmp_path / "out.tif", image.pixels, like=image)
        with Image.open(tmp_path / "out.tif") as after:
            assert after.info["icc_profile"] == ICC and after.getexif()[0x010F] == "Maker"
            assert after.getexif().get_ifd(GPS)[2] == (1.0, 2.0, 3.0)
            assert after.getexif().get_ifd(CAMERA)[36867] == "2026:01:02 03:04:05"


def test_deep_grey_with_alpha_becomes_a_tiff_in_colour_because_few_read_the_other(tmp_path):
    from restore_diff.data import decoding

    planes = noise(2, 6, 4)
    (tmp_path / "in.png").write_bytes(decoding.encode_png(torch.from_numpy(planes.astype(np.int32)), b"", b""))
    image = read_image(tmp_path / "in.png")
    write_image(tmp_path / "out.tif", image.pixels, like=image)
    expected = np.stack([planes[0]] * 3 + [planes[1]], axis=-1)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), expected)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_grey_whose_white_is_zero_is_not_read_as_a_negative(tmp_path, compression):
    array = noise(5, 7)
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="miniswhite", compression=compression)
    image = read_image(tmp_path / "in.tif")
    assert np.array_equal(levels(image)[..., 0], 65535 - array)
    write_image(tmp_path / "out.tif", image.pixels, like=image)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), 65535 - array)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (noise(3, 4, 4), {"photometric": "rgb", "planarconfig": "separate", "compression": "zlib"}),
        (noise(3, 4, 4), {"photometric": "rgb", "planarconfig": "separate"}),
        (noise(4, 4, 4), {"photometric": "separated", "extrasamples": []}),
        (noise(4, 4).astype(np.float16), {}),
        (noise(4, 4).astype(np.float32), {}),
        (noise(4, 4, 3).astype(np.float32), {"photometric": "rgb"}),
        (noise(4, 4).astype(np.float64), {}),
        (noise(4, 4).astype(np.int16), {}),
        (noise(4, 4).astype(np.uint32), {}),
        (noise(4, 4, 3).astype(np.int16), {"photometric": "rgb"}),
        (noise(4, 4, 2), {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}),
        (noise(4, 4).astype(np.complex64), {}),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, np.ndarray) else None,
)
def test_depth_that_would_be_cut_is_refused(tmp_path, array, options):
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    with pytest.raises(ImageError, match=r"save it as (8-bit or 16-bit )?PNG") as refusal:
        read_image(tmp_path / "a.tif")
    assert "\n" not in str(refusal.value)


def test_a_16_bit_png_whose_transparency_is_a_colour_is_refused(tmp_path):
    Image.fromarray(noise(4, 4)).save(tmp_path / "a.png", transparency=7)
    with pytest.raises(ImageError, match="full depth"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_pictures_the_first_is_read_and_they_are_counted(tmp_path, kind):
    frames = [Image.fromarray(np.full((6, 5, 3), value, np.uint8)) for value in (10, 120, 200)]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:], **options)
    image = read_image(tmp_path / "a")
    assert image.num_frames == 3 and (image.pixels * 255).round().unique().tolist() == [10]
    frames[0].save(tmp_path / "a", kind)
    assert read_image(tmp_path / "a").num_frames == 1


def test_a_photograph_with_a_preview_is_one_picture(tmp_path):
    photograph, preview = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (4, 3), "blue")
    photograph.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    image = read_image(tmp_path / "a.jpg")
    assert image.num_frames == 1 and image.pixels.shape == (3, 6, 8)


def test_a_damaged_second_frame_does_not_matter(tmp_path):
    frames = [Image.fromarray(noise(20, 20, seed=k).astype(np.uint8)) for k in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    (tmp_path / "a.gif").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) * 3 // 4])
    assert np.array_equal(
        (read_image(tmp_path / "a.gif").pixels[0] * 255).round().byte().numpy(), np.asarray(frames[0])
    )


def test_alpha_that_is_opaque_everywhere_is_left_out_of_a_jpeg(tmp_path):
    rgba = np.full((8, 8, 4), 255, np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    write_image(tmp_path / "a.jpg", image.pixels, like=image)
    with Image.open(tmp_path / "a.jpg") as after:
        assert after.mode == "RGB"
    rgba[0, 0, 3] = 254
    Image.fromarray(rgba).save(tmp_path / "b.png")
    image = read_image(tmp_path / "b.png")
    with pytest.raises(ImageError, match="JPEG holds no transparency"):
        write_image(tmp_path / "b.jpg", image.pixels, like=image)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch x)(w)file\n%%EOF\n"),
        ("a.svg", b"<svg></svg>"),
    ],
)
def test_formats_that_run_programs_are_not_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "a.png").write_bytes(content)
    for path in (tmp_path / name, tmp_path / "a.png"):
        with pytest.raises(ImageError, match="not an image of a known format"):
            read_image(path)
