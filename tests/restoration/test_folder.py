"""Restoring many images: order, overlap, memory, and failures of images, disks and code."""

import errno
import gc
import threading
import weakref

import pytest
import torch

from restore_diff.data.images import ImageError, RasterImage, read_image, read_rgb_uint8, write_image
from restore_diff.restoration import folder, sources
from restore_diff.restoration.folder import DiskFull, Job, restore_folder

MAX_PIXELS = 10_000
TIMEOUT_S = 10


def invert(image, name):
    assert image.shape[:2] == (1, 3)
    return 1 - image


def photographs(folder_, number):
    """`number` PNG files of different sizes and content, and the jobs that restore them."""
    folder_.mkdir(parents=True)
    jobs = []
    for k in range(number):
        values = torch.arange(3 * (k + 1) * (k + 4)).reshape(3, k + 1, k + 4) % 251 / 255
        write_image(folder_ / f"{k}.png", values)
        jobs.append(Job(folder_ / f"{k}.png", folder_.parent / "out" / f"{k}.png"))
    return jobs


def run(jobs, restore=invert):
    return list(restore_folder(jobs, restore, MAX_PIXELS))


def until(error, outcomes, match=None):
    """The outcomes before the error."""
    found = []
    with pytest.raises(error, match=match):
        found.extend(outcomes)
    return found


class InMemory:
    """Replaces the disk: records what is read and written."""

    def __init__(self, monkeypatch):
        self.read, self.written, self.images = [], [], []
        monkeypatch.setattr(folder, "read_image", self.read_image)
        monkeypatch.setattr(folder, "write_image", self.write_image)

    def read_image(self, path, max_pixels):
        self.read.append(path.stem)
        pixels = torch.zeros(3, 2, 2)
        self.images.append(weakref.ref(pixels))
        return RasterImage(pixels)

    def write_image(self, path, pixels, like, quality=95):
        self.written.append(path.stem)


def jobs_of(tmp_path, number):
    return [Job(tmp_path / f"{k}.png", tmp_path / "out" / f"{k}.png") for k in range(number)]


def reasons(outcomes):
    return [outcome.reason for outcome in outcomes]


def raises(error):
    def restore(image, name):
        raise error

    return restore


def at(name, error):
    """Invert all images except `name`."""
    return lambda image, given: raises(error)(image, given) if given == name else 1 - image


def written(jobs):
    return sorted(path.name for path in jobs[0].output.parent.iterdir())


def test_each_image_is_restored_to_its_own_output(tmp_path):
    jobs = photographs(tmp_path / "in", 5)
    outcomes = run(jobs)
    assert [outcome.job for outcome in outcomes] == jobs
    assert not any(reasons(outcomes))
    for job in jobs:
        torch.testing.assert_close(read_image(job.output).pixels, 1 - read_image(job.source).pixels)


def test_bad_images_have_a_reason_and_do_not_stop_the_others(tmp_path):
    jobs = photographs(tmp_path / "in", 5)
    jobs[1].source.write_bytes(jobs[1].source.read_bytes()[:50])
    jobs[2].source.write_text("no image")
    jobs[4].source.unlink()
    outcomes = run(jobs)
    assert [outcome.job for outcome in outcomes] == jobs
    assert [bool(reason) for reason in reasons(outcomes)] == [False, True, True, False, True]
    assert outcomes[4].reason == "no such file"  # without the path, which is printed before it
    assert written(jobs) == ["0.png", "3.png"]


def test_an_image_of_too_many_pixels_fails(tmp_path):
    jobs = photographs(tmp_path / "in", 1)
    assert "4 pixels" in next(restore_folder(jobs, invert, 3)).reason
    assert not next(restore_folder(jobs, invert, 4)).reason


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried 20 GiB\nmore")])
def test_out_of_memory_fails_one_image_with_advice(tmp_path, error):
    outcomes = run(photographs(tmp_path / "in", 3), at("1.png", error))
    assert reasons(outcomes) == ["", "out of memory (a smaller --tile needs less)", ""]


@pytest.mark.parametrize(("error", "reason"), [(RuntimeError("first\nsecond"), "first"), (ValueError(), "ValueError")])
def test_a_reason_is_one_line_and_never_empty(tmp_path, error, reason):
    assert reasons(run(photographs(tmp_path / "in", 1), raises(error))) == [reason]


def test_a_non_finite_result_is_not_written(tmp_path):
    jobs = photographs(tmp_path / "in", 1)
    assert "not finite" in run(jobs, lambda image, name: image / 0)[0].reason
    assert not jobs[0].output.exists()


def test_a_bug_ends_the_run(tmp_path):
    with pytest.raises(TypeError, match="a bug"):
        run(photographs(tmp_path / "in", 2), raises(TypeError("a bug")))


def test_reading_and_writing_overlap_with_restoring(tmp_path, monkeypatch):
    """Reading of k + 1 and writing of k - 1 wait for the restoration of k, which waits for both."""
    started, read, written = ([threading.Event() for _ in range(5)] for _ in range(3))

    def read_image(path, max_pixels):
        k = int(path.stem)
        assert k == 0 or started[k - 1].wait(TIMEOUT_S), "read before the last image is restored"
        read[k].set()
        return RasterImage(torch.zeros(3, 2, 2))

    def write(path, *arguments, **named):
        k = int(path.stem)
        assert k == 4 or started[k + 1].wait(TIMEOUT_S), "written before the next image is restored"
        written[k].set()

    def restore(image, name):
        k = int(name.removesuffix(".png"))
        started[k].set()
        assert k == 4 or read[k + 1].wait(TIMEOUT_S), "the next image is read later"
        assert k == 0 or written[k - 1].wait(TIMEOUT_S), "the last image is written later"
        return image

    monkeypatch.setattr(folder, "read_image", read_image)
    monkeypatch.setattr(folder, "write_image", write)
    assert len(run(jobs_of(tmp_path, 5), restore)) == 5


def test_memory_stays_flat(tmp_path, monkeypatch):
    disk = InMemory(monkeypatch)

    def restore(image, name):
        k = int(name.removesuffix(".png"))
        assert len(disk.read) <= k + 2, "reads more than one image ahead"
        assert sum(pixels() is not None for pixels in disk.images) <= 4
        return 1 - image

    assert not any(reasons(run(jobs_of(tmp_path, 30), restore)))
    assert disk.written == [str(k) for k in range(30)]


def test_failures_do_not_keep_their_images(tmp_path, monkeypatch):
    disk = InMemory(monkeypatch)
    outcomes = run(jobs_of(tmp_path, 10), raises(RuntimeError("failed")))
    gc.collect()
    assert reasons(outcomes) == ["failed"] * 10
    assert not any(pixels() is not None for pixels in disk.images)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_run_with_an_error(tmp_path, monkeypatch, number):
    jobs = photographs(tmp_path / "in", 6)
    restored = []

    def restore(image, name):
        restored.append(name)
        return 1 - image

    def write(path, *arguments, **named):
        if path.name == "2.png":
            raise OSError(number, "No space left on device", str(path))
        write_image(path, *arguments, **named)

    monkeypatch.setattr(folder, "write_image", write)
    outcomes = until(DiskFull, restore_folder(jobs, restore, MAX_PIXELS), "No space left on device")
    assert [outcome.job for outcome in outcomes] == jobs[:3]
    assert outcomes[2].reason == f"cannot write {jobs[2].output}: No space left on device"
    assert len(restored) <= 4
    assert written(jobs) == ["0.png", "1.png"]


def test_uncertainty_maps_are_white_at_a_standard_deviation_of_0_1(tmp_path):
    job = photographs(tmp_path / "in", 1)[0]._replace(uncertainty=tmp_path / "out" / "uncertainty" / "0.png")
    spread = torch.tensor([0.0, 0.025, 0.1, 0.5]).expand(3, 1, 4)
    assert not run([job], lambda image, name: torch.stack([1 - image[0], spread]))[0].reason
    assert read_rgb_uint8(job.uncertainty).flatten(1).tolist() == [[0, 64, 255, 255]] * 3
    assert torch.equal(read_rgb_uint8(job.output), 255 - read_rgb_uint8(job.source))


def test_another_error_of_writing_fails_one_image(tmp_path):
    jobs = photographs(tmp_path / "in", 3)
    jobs[1].output.mkdir(parents=True)  # where the file has to go
    assert reasons(run(jobs)) == ["", f"cannot write {jobs[1].output}: Is a directory", ""]


def test_an_output_folder_that_cannot_be_made_fails_before_restoring(tmp_path):
    jobs = photographs(tmp_path / "in", 1)
    (tmp_path / "out").write_text("a file in place of the folder")
    assert run(jobs, raises(AssertionError("restored in vain")))[0].reason


def test_an_interrupt_finishes_the_image_being_written(tmp_path):
    jobs = photographs(tmp_path / "in", 6)
    outcomes = until(KeyboardInterrupt, restore_folder(jobs, at("3.png", KeyboardInterrupt()), MAX_PIXELS))
    assert [outcome.job for outcome in outcomes] == jobs[:3]
    assert written(jobs) == ["0.png", "1.png", "2.png"]


def test_noise_is_addressed_by_the_file_name_without_folder(tmp_path):
    names = []

    def restore(image, name):
        names.append(name)
        return image

    photographs(tmp_path / "in", 1)
    photographs(tmp_path / "in/sub", 2)
    for source in (tmp_path / "in", tmp_path / "in/sub", tmp_path / "in/sub/1.png"):
        plan = sources.plan_jobs([str(source)], tmp_path / "o", overwrite=True)
        run(plan.jobs, restore)
    assert names == ["0.png", "0.png", "1.png", "0.png", "1.png", "1.png"]


def test_a_comparison_shows_the_degraded_image_left_of_the_restored(tmp_path):
    job = photographs(tmp_path / "in", 3)[2]._replace(comparison=tmp_path / "out/comparisons/2.png")
    assert not run([job])[0].reason
    degraded = read_image(job.source).pixels
    assert job.comparison
    torch.testing.assert_close(read_image(job.comparison).pixels, torch.cat([degraded, 1 - degraded], dim=2))


def test_an_output_is_written_after_its_comparison(tmp_path, monkeypatch):
    job = photographs(tmp_path / "in", 1)[0]._replace(comparison=tmp_path / "out/comparisons/0.png")

    def write(path, *arguments, **named):
        if path == job.comparison:
            raise ImageError("no")

    monkeypatch.setattr(folder, "write_image", write)
    assert run([job])[0].reason
    assert not job.output.exists()
