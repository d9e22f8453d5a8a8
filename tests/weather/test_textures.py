"""Texture folders and rain cut out of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restore_diff import build
from restore_diff.data.images import ImageError
from restore_diff.data.names import DataError
from restore_diff.randomness import generator
from restore_diff.settings import DataConfig, RainConfig, SnowConfig
from restore_diff.weather.rain import render_rain
from restore_diff.weather.textures import SEAM, TextureFolder, _read


@pytest.fixture
def write(tmp_path):
    """write("a.png", array of levels) puts a picture into a folder, and returns the folder."""

    def make(name: str, levels) -> str:
        folder = tmp_path / "textures"
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.asarray(levels, np.uint8)).save(folder / name)
        return str(folder)

    return make


def pieces(folder: str, num_pieces: int, height: int, width: int, scales=(1.0,)) -> Tensor:
    textures = TextureFolder(folder)
    return torch.stack([textures.crop(height, width, generator(k, "piece"), scales) for k in range(num_pieces)])


def slashes() -> np.ndarray:
    """Lines that rise to the right; seven periods are the sides without the seams, so that they go on over these."""
    rows, columns = np.mgrid[:112, :112]
    return np.where((rows + columns) % 14 < 4, 200, 0)


def test_equal_draws_give_equal_crops_and_other_draws_others(write):
    folder = write("a.png", np.random.default_rng(0).integers(0, 256, (40, 50)))
    textures = TextureFolder(folder)
    first, second, third = (textures.crop(8, 9, generator(seed)) for seed in (1, 2, 1))
    assert torch.equal(first, third) and not torch.equal(first, second)


def test_a_piece_is_found_in_its_picture_as_it_lies_there_or_mirrored(write):
    levels = np.random.default_rng(0).integers(0, 256, (40, 50))
    levels[20, 20] = 255
    folder = write("a.png", levels)
    inner = torch.from_numpy(levels[5:35, 6:44]).float() / 255  # between the seams, which are an eighth of the sides
    mirrored_too = [view.unfold(0, 8, 1).unfold(1, 9, 1) for view in (inner, inner.flip(1))]
    found = [
        [bool((windows - piece[0]).abs().amax((2, 3)).min() < 1e-6) for windows in mirrored_too]
        for piece in pieces(folder, 100, 8, 9)
    ]
    as_it_lies, mirrored = (sum(column) for column in zip(*found, strict=True))
    assert min(as_it_lies, mirrored) > 10 and 25 < as_it_lies + mirrored < 65


def test_every_picture_and_every_place_is_drawn(write):
    for number in range(4):
        spot = np.full((16, 16), 40 * (number + 1))
        spot[5, 6] = 255
        folder = write(f"{number}.png", spot)
    drawn = pieces(folder, 200, 14, 14)  # as large as a picture without its seams: each holds the spot once
    assert drawn.amin((1, 2, 3)).mul(255).round().unique().tolist() == [40, 80, 120, 160]
    places = (drawn == 1).nonzero()
    assert len(places) == 200
    assert all(len(places[:, dim].unique()) == 14 for dim in (2, 3))


def test_the_brightest_point_counts_as_one_whatever_the_colour(write):
    levels = np.zeros((32, 32, 3))
    levels[16:20, 16:20] = (10, 50, 20)
    levels[24, 24] = 25
    piece = pieces(write("a.png", levels), 1, 28, 28)
    assert piece.max() == 1
    assert piece.unique().tolist() == pytest.approx([0, 0.5, 1], abs=1 / 255)


def test_a_piece_larger_than_its_picture_has_no_edge(write):
    folder = write("a.png", slashes())
    for piece in pieces(folder, 4, 300, 270)[:, 0]:
        assert any(torch.equal(view[1:, :-1], view[:-1, 1:]) for view in (piece, piece.flip(1)))  # lines run on
    folder = write("a.png", np.tile(np.linspace(0, 255, 160), (160, 1)))
    _read.cache_clear()
    ramp = pieces(folder, 4, 300, 300)
    assert ramp.diff(dim=3).abs().max() < 1.2 / (160 * SEAM)  # from its bright end back to its dark one over the seam
    assert ramp.diff(dim=2).abs().max() < 0.01


def test_layers_of_several_scales_share_their_direction_and_clip_at_1(write):
    folder = write("a.png", slashes())
    for piece in pieces(folder, 8, 60, 60, scales=(1.0, 0.5)):
        down = (piece[0, 2:, 1:-1] - piece[0, :-2, 1:-1]).flatten()
        right = (piece[0, 1:-1, 2:] - piece[0, 1:-1, :-2]).flatten()
        assert abs(float(down @ right)) / float(down.norm() * right.norm()) > 0.9
        assert piece.max() == 1
    one, both = (pieces(folder, 8, 60, 60, scales).mean() for scales in ((1.0,), (1.0, 0.5)))
    assert 1.3 * one < both < 2 * one


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_scale_enlarges_what_lies_in_the_picture(write, scale: float):
    levels = np.zeros((128, 128))
    levels[64:72, 64:72] = 255
    piece = pieces(write("a.png", levels), 1, int(112 * scale), int(112 * scale), (scale,))
    assert piece.sum() == pytest.approx(64 * scale**2, rel=0.1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 200), (200, 3)])
def test_pieces_of_every_size(write, height: int, width: int):
    for scale in (0.3, 1.0, 7.0):
        assert pieces(write("a.png", [[0, 9, 0, 4]]), 2, height, width, (scale,)).shape == (2, 1, height, width)


@pytest.mark.parametrize("kind", ["rain", "snow"])
def test_a_folder_without_images_is_rejected_before_rendering(tmp_path, kind: str):
    def config(weather: str, folder) -> DataConfig:
        return DataConfig(weather=weather, rain=RainConfig(textures=str(folder)), snow=SnowConfig(masks=str(folder)))

    with pytest.raises(DataError, match="no such folder of textures"):
        build.renderer(config(kind, tmp_path / "nowhere"))
    (tmp_path / "text.txt").touch()
    with pytest.raises(DataError, match="0 images"):
        build.renderer(config(f"{kind}+haze", tmp_path))
    assert build.renderer(config("haze", tmp_path)) is not None


def test_damaged_and_black_textures_are_rejected(write, tmp_path):
    folder = write("black.png", np.zeros((8, 8)))
    with pytest.raises(ImageError, match=r"black\.png: all black"):
        pieces(folder, 1, 4, 4)
    (tmp_path / "textures" / "no.png").write_text("no image")
    copy = (tmp_path / "textures").rename(tmp_path / "others")
    with pytest.raises(ImageError, match=r"no\.png"):
        TextureFolder(str(copy))


def textured(folder: str, **changes: float) -> RainConfig:
    values = {"brightness": 0.5, "veil": 0.0, "airlight": 1.0} | changes
    return RainConfig(textures=folder, **{name: (value, value) for name, value in values.items()})


def test_streaks_of_textures_add_light_of_the_brightness_asked_for(write):
    clean = torch.rand(6, 3, 60, 60, generator=generator(0)) * 0.5
    folder = write("a.png", slashes())
    added = render_rain(clean, textured(folder), range(6)) - clean
    assert added.min() > -1e-6
    assert added.amax((1, 2, 3)).tolist() == pytest.approx([0.5] * 6, abs=0.03)
    assert (added.amax(1) - added.amin(1)).max() < 1e-6
    veiled = render_rain(clean, textured(folder, veil=0.3, airlight=0.8), range(6))
    torch.testing.assert_close(veiled, (clean + added) * 0.7 + 0.8 * 0.3)


def test_textured_rain_depends_on_the_seed_only(write):
    clean = torch.rand(3, 3, 40, 40, generator=generator(0))
    config = RainConfig(textures=write("a.png", slashes()))
    together = render_rain(clean, config, [7, 8, 7])
    assert torch.equal(render_rain(clean[1:2], config, [8])[0], together[1])
    same_scene = render_rain(clean[:1].expand(2, -1, -1, -1), config, [7, 8])
    assert not torch.allclose(same_scene[0], same_scene[1], atol=0.01)
