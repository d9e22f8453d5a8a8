"""A scan of 40 megapixels is restored in tiles, in memory proportional to its size."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from restore_diff.diffusion.samplers import DDIMSampler
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.restoration.folder import Job, restore_folder
from restore_diff.restoration.restorer import Restorer
from restore_diff.settings import SamplerConfig, ScheduleConfig, TilingConfig

BYTES_PER_PIXEL = 120


def memory_bytes(name: str) -> int:
    return 1024 * int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0])


def darker(x_t, t, degraded):
    """The clean image, in [-1, 1]: half as bright as the degraded one."""
    return degraded / 2 - 0.5


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc")
def test_40_megapixels_are_restored_in_proportionate_memory(tmp_path):
    height, width = 5000, 8000
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    levels = ((rows // 100 + columns // 100) * 2 % 256).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "scan.png")
    sampler = DDIMSampler(NoiseSchedule(ScheduleConfig()), "clean", SamplerConfig(num_steps=1))
    tiling = TilingConfig(tile_size_px=1024, tile_overlap_px=64, tiles_per_batch=1)
    restorer = Restorer(darker, sampler, tiling, size_multiple=16, device="cpu")
    job = Job(tmp_path / "scan.png", tmp_path / "out.png")

    Path("/proc/self/clear_refs").write_text("5")
    before = memory_bytes("VmRSS")
    outcomes = list(restore_folder([job], lambda image, name: restorer.restore(image, [name]), 200_000_000))
    assert (memory_bytes("VmHWM") - before) / levels.size < BYTES_PER_PIXEL
    assert [outcome.reason for outcome in outcomes] == [""]
    with Image.open(job.output) as restored:
        assert restored.mode == "L"
        difference = np.asarray(restored).astype(np.int16) - (levels + 1) // 2
        assert np.abs(difference).max() <= 1
