"""16 bits per sample as scanners and raw converters write them, and files with several pictures."""

import numpy as np
import pytest
import tifffile  # scikit-image brings it
import torch
from PIL import Image, ImageCms

from restore_diff.data import images
from restore_diff.data.decoding import encode_png
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


def levels(image):
    planes = [image.pixels] + ([image.alpha] if image.alpha is not None else [])
    return (torch.cat(planes) * 65535).round().int().permute(1, 2, 0).numpy()


def rewritten(path, suffix):
    """Read a file and write it again; return both."""
    image, out = read_image(path), path.with_name(f"out{suffix}")
    write_image(out, image.pixels, like=image)
    return image, out


@pytest.mark.parametrize("options", SCANNED, ids=str)
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("channels", [3, 4])
def test_48_and_64_bit_tiff_is_read_and_written_in_full_depth(tmp_path, options, byteorder, channels):
    array = noise(33, 47, channels)
    path = scan(tmp_path / "in.tif", array, byteorder=byteorder, **options)
    for suffix in (".tif", ".png"):
        image, out = rewritten(path, suffix)
        assert image.bit_depth == 16 and not image.grey
        assert np.array_equal(levels(image), array) and np.array_equal(levels(read_image(out)), array)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), array)  # read by another library


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_48_bit_tiff_is_written_upright(tmp_path, orientation):
    path = scan(tmp_path / "in.tif", noise(5, 9, 3), extratags=[(274, "H", 1, orientation, True)])
    turned, out = rewritten(path, ".tif")
    with Image.open(path) as shown:  # Pillow shows the high bytes, upright
        assert np.array_equal(levels(turned) // 256, np.asarray(shown))
    assert np.array_equal(tifffile.imread(out), levels(turned))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_16_bit_tiff_keeps_its_metadata(tmp_path, channels):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 1
    exif.get_ifd(GPS)[2] = (1.0, 2.0, 3.0)
    exif.get_ifd(CAMERA)[36867] = "2026:01:02 03:04:05"
    samples = torch.from_numpy(noise(channels, 6, 4).astype(np.int32))
    (tmp_path / "in.tif").write_bytes(images.encode_tiff(samples, exif.tobytes(), ICC))
    with Image.open(rewritten(tmp_path / "in.tif", ".tif")[1]) as after:
        assert after.info["icc_profile"] == ICC and after.getexif()[0x010F] == "Maker"
        assert after.getexif().get_ifd(GPS)[2] == (1.0, 2.0, 3.0)
        assert after.getexif().get_ifd(CAMERA)[36867] == "2026:01:02 03:04:05"


def test_16_bit_grey_with_alpha_is_written_as_a_colour_tiff(tmp_path):
    planes = noise(2, 6, 4)
    (tmp_path / "in.png").write_bytes(encode_png(torch.from_numpy(planes.astype(np.int32)), b"", b""))
    expected = np.stack([planes[0]] * 3 + [planes[1]], axis=-1)
    assert np.array_equal(tifffile.imread(rewritten(tmp_path / "in.png", ".tif")[1]), expected)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_grey_whose_white_is_zero_is_not_read_as_a_negative(tmp_path, compression):
    array = noise(5, 7)
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="miniswhite", compression=compression)
    image, out = rewritten(tmp_path / "in.tif", ".tif")
    assert np.array_equal(levels(image)[..., 0], 65535 - array) and np.array_equal(tifffile.imread(out), 65535 - array)


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
    tifffile.imwrite(tmp_path / "a.tif", noise(*shape).astype(dtype), **options)
    with pytest.raises(ImageError, match=r"^[^\n]*save it as (8-bit or 16-bit )?PNG[^\n]*$"):
        read_image(tmp_path / "a.tif")


def test_a_16_bit_png_with_a_transparent_colour_is_refused(tmp_path):
    Image.fromarray(noise(4, 4)).save(tmp_path / "a.png", transparency=7)
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
    frames = [Image.fromarray(noise(20, 20, seed=k).astype(np.uint8)) for k in range(2)]
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
