"""Raindrops: effect of each setting, measured on the images."""

import math

import pytest
import torch
from skimage.measure import label, regionprops
from still import fixed, photographs, whole_regions
from torch import Tensor

from restore_diff.settings import RaindropConfig
from restore_diff.weather.raindrop import Drops, Window, pour, render_raindrops

RADIUS_PX, NO_BLUR = 10.0, 0.01
STILL = {
    "covered": 0.1,
    "radius_px": RADIUS_PX,
    "size_spread": 0,
    "irregularity": 0,
    "elongation": 1,
    "running": 0,
    "blur_px": NO_BLUR,
    "refraction_px": 60,
    "smear_px": 1,
    "surroundings": 0,
    "sky": 1,
    "ground": 1,
    "shading": 0,
    "highlight": 0,
    "opacity": 1,
}
"""Round drops, all alike and sharp, which show the scene and nothing else."""


def glass(**changes: float | tuple[float, float]) -> RaindropConfig:
    return fixed(RaindropConfig, STILL | changes)


def water(num_images: int = 4, size: int = 192, **changes: float) -> Tensor:
    """What share of each pixel is hidden by drops: (num_images, size, size)."""
    grey = torch.full((num_images, 3, size, size), 0.5)
    lit = glass(**changes, surroundings=1)  # of blue the drops show nothing but 1
    return render_raindrops(grey, lit, range(num_images))[:, 2] * 2 - 1


def single_drops(pictures: Tensor, border: int = 1) -> list:
    """Regions under water that keep off the border of their picture, without those that are several drops in one."""
    height, width = pictures.shape[1:]
    regions = [r for p in pictures for r in regionprops(label((p > 0.5).numpy()))]
    inside = [
        r for r in regions if min(r.bbox) >= border and r.bbox[2] <= height - border and r.bbox[3] <= width - border
    ]
    return [r for r in inside if r.solidity > 0.94]


def drops_on(
    clean: Tensor, border: int = 1, radius_px: float = RADIUS_PX, covered: float = 0.1, **changes: float
) -> list[tuple[Tensor, Tensor]]:
    """Single drops on a picture (3, 192, 192): what is seen (3, height, width), and its rows from the drop's middle."""
    shape = {"radius_px": radius_px, "covered": covered}
    found = []
    for seed, mask in enumerate(water(10, 192, **shape)):
        degraded = render_raindrops(clean[None], glass(**shape, **changes), [seed])[0]
        for r in single_drops(mask[None], border):
            top, left, bottom, right = r.bbox
            found.append((degraded[:, top:bottom, left:right], torch.arange(top, bottom) - r.centroid[0]))
    assert len(found) > 2
    return found


def test_without_drops_a_photograph_stays_as_it_is():
    clean = photographs(4)
    assert torch.equal(render_raindrops(clean, RaindropConfig(covered=(0, 0)), range(4)), clean)


@pytest.mark.parametrize("blur_px", [NO_BLUR, 6])
def test_between_drops_the_photograph_stays_as_it_is(blur_px: int):
    clean = photographs(4, 192, 192)
    change = (render_raindrops(clean, glass(blur_px=blur_px, highlight=1), range(4)) - clean).abs().amax(1)
    wet = water(blur_px=blur_px) > 1e-5
    assert 0.1 < wet.float().mean() < 0.6
    assert change[~wet].max() < 1e-5 and change[wet].mean() > 0.05


@pytest.mark.parametrize("covered", [0.15, 0.6])
@pytest.mark.parametrize("other", [{}, {"radius_px": 5, "size_spread": 0.6}, {"irregularity": 1}, {"running": 0.1}])
def test_drops_cover_the_share_of_the_glass_asked_for(covered: float, other: dict):
    assert water(num_images=24, covered=covered, **other).mean() == pytest.approx(covered, rel=0.1)


def test_a_crop_is_as_wet_as_a_whole_photograph_up_to_its_border():
    large = water(num_images=1000, size=8, covered=0.3, radius_px=25, size_spread=0.4, elongation=1.5)
    trails = water(num_images=800, size=24, covered=0.3, radius_px=3, running=1)
    blurred = water(num_images=800, size=8, covered=0.3, radius_px=4, blur_px=12)
    for crops in (large, trails, blurred):
        for part in (crops, crops[:, :2], crops[:, -2:], crops[:, :, :2], crops[:, :, -2:]):
            assert part.mean() == pytest.approx(0.3, rel=0.12)
    assert (large.mean((1, 2)) > 0.99).float().mean() > 0.1  # the inside of a drop that is larger than the crop


@pytest.mark.parametrize("radius_px", [4, 10, 20])
def test_a_drop_has_the_radius_asked_for(radius_px: int):
    areas = torch.tensor([r.area for r in single_drops(water(radius_px=radius_px))])
    assert areas.median() == pytest.approx(math.pi * radius_px**2, rel=0.03)


def test_drops_of_many_sizes_spread_as_asked_for():
    areas = torch.tensor([r.area for r in single_drops(water(num_images=24, covered=0.04, size_spread=0.4))])
    assert (areas.log() / 2).std() == pytest.approx(0.4 * 0.88, rel=0.15)  # 0.88: cut off at two deviations


def test_irregular_drops_are_not_round_but_as_large():
    irregular = single_drops(water(num_images=8, irregularity=0.6))
    axes = torch.tensor([r.axis_minor_length / r.axis_major_length for r in irregular])
    assert 0.7 < axes.median() < 0.9
    areas = torch.tensor([r.area for r in irregular])
    assert areas.median() == pytest.approx(math.pi * RADIUS_PX**2, rel=0.04)


def test_drops_are_taller_than_wide_by_up_to_the_elongation():
    boxes = torch.tensor([r.bbox for r in single_drops(water(num_images=32, elongation=3, covered=0.03))])
    ratio = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
    assert ratio.median() == pytest.approx(math.sqrt(3), rel=0.12)
    assert ratio.min() > 0.9 and 2.5 < ratio.max() < 3.2


def test_running_drops_leave_a_trail_above_them():
    pictures = water(num_images=16, running=1, covered=0.02, radius_px=6)
    regions = [r for p in pictures for r in regionprops(label((p > 0.5).numpy())) if r.bbox[0] > 0 and r.bbox[2] < 192]
    tall = [r for r in regions if r.bbox[2] - r.bbox[0] > 40 and r.bbox[3] - r.bbox[1] < 20]
    assert len(tall) > 3
    low = [r.centroid[0] > (r.bbox[0] + r.bbox[2]) / 2 for r in tall]  # most water is in the drop, at the lower end
    assert sum(low) > 0.8 * len(low)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_drop_inverts_the_scene(axis: int):
    for seed, mask in enumerate(water(num_images=2)):
        for r in single_drops(mask[None]):
            clean = torch.zeros(1, 3, 192, 192)
            clean.narrow(axis + 2, 0, round(r.centroid[axis])).fill_(1)
            seen = render_raindrops(clean, glass(), [seed])[0, 0].select(1 - axis, round(r.centroid[1 - axis]))
            drop = seen[r.bbox[axis] : r.bbox[axis + 2]]
            assert drop[3:6].max() < 0.2 and drop[-6:-3].min() > 0.8


def test_a_drop_refracts_like_a_spherical_cap():
    """The cap meets the glass at 60 degrees, where it shows what lies `refraction_px` behind the drop's middle."""
    clean = (torch.arange(192.0) / 191)[:, None].expand(3, 192, 192)
    for drop, rows in drops_on(clean, border=40, refraction_px=40, radius_px=20, covered=0.2):
        seen, rows = drop[0, 2:-2, drop.shape[2] // 2] * 191, rows[2:-2]
        slope = (rows / 20 * math.sin(math.pi / 3)).asin().tan() / math.tan(math.pi / 3)
        torch.testing.assert_close(seen - seen.mean(), rows - 40 * slope, atol=2, rtol=0)


def test_the_scene_is_blurred_inside_drops_only():
    stripes = (torch.arange(192) // 24 % 2).float().expand(3, 192, 192)
    sharp, smeared = (drops_on(stripes, refraction_px=90, smear_px=smear_px) for smear_px in (1, 20))
    contrast = [torch.stack([drop[:, 4:-4, 4:-4].std() for drop, *_ in drops]).mean() for drops in (sharp, smeared)]
    assert contrast[0] > 0.35 and contrast[1] < 0.08


def test_surroundings_are_sky_above_and_mean_coloured_ground_below():
    clean = torch.tensor([0.8, 0.4, 0.2]).view(3, 1, 1).expand(3, 192, 192)
    for drop, *_ in drops_on(clean, surroundings=1, sky=0.9, ground=0.6, radius_px=25, covered=0.15):
        middle = drop[:, :, drop.shape[2] // 2]
        torch.testing.assert_close(middle[:, 1], 0.6 * torch.tensor([1, 0.5, 0.25]), atol=0.1, rtol=0)
        torch.testing.assert_close(middle[:, -2], 0.9 * torch.tensor([0.93, 0.97, 1]), atol=0.1, rtol=0)


def test_shading_darkens_mostly_the_upper_outline():
    for drop, *_ in drops_on(torch.full((3, 192, 192), 0.6), shading=0.8, radius_px=25, covered=0.15):
        middle = drop[0, :, drop.shape[2] // 2]
        assert middle[len(middle) // 2] == pytest.approx(0.6, abs=0.005)
        assert middle[1] == pytest.approx(0.6 * 0.35, abs=0.08) and middle[-2] == pytest.approx(0.6 * 0.8, abs=0.05)


def test_the_bright_spot_lies_in_the_lower_part():
    for drop, *_ in drops_on(torch.full((3, 192, 192), 0.2), highlight=0.9, radius_px=25, covered=0.15):
        brightest = int(drop[0, :, drop.shape[2] // 2].argmax())
        assert 0.6 < brightest / drop.shape[1] < 0.95
        assert drop.max() == pytest.approx(1 - 0.8 * 0.1, abs=0.01)


def test_opacity_is_the_share_of_the_scene_that_drops_hide():
    torch.testing.assert_close(water(opacity=0.6), water() * 0.6, atol=1e-5, rtol=0)


def test_defocus_blurs_drops_by_a_disc_and_keeps_their_sum():
    sharp, blurred = (water(radius_px=3, covered=0.003, blur_px=blur_px) for blur_px in (NO_BLUR, 12))
    assert min(r.area for r in whole_regions(blurred, 0.02)) == pytest.approx(math.pi * 12**2, rel=0.15)
    assert blurred.mean() == pytest.approx(float(sharp.mean()), rel=0.1)
    assert blurred.max() < 3 * (3 / 12) ** 2


def test_a_large_drop_absorbs_a_small_one():
    def place(*radii: float) -> Tensor:
        x, size, flat = torch.tensor([30.0, 40.0])[: len(radii)], torch.tensor(radii), torch.zeros(len(radii), 3)
        drops = Drops(x, torch.full_like(x, 30), torch.zeros_like(x), size, torch.ones_like(size), flat, flat)
        return pour([drops], Window(0, 0, 60, 60), x.device).place[0, :, 30]

    alone, together = place(20.0), place(20.0, 4.0)
    torch.testing.assert_close(together[:, 12:48], alone[:, 12:48], atol=0.05, rtol=0)
    assert place(20.0, 20.0)[0, 35].abs() < 0.01  # half way between two equal drops neither bends the light
