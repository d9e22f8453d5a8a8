"""Whether this machine can train, test and restore. Nothing heavy is imported before it is known to be whole."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from restore_diff.config import ExperimentConfig
from restore_diff.doctor.sets import Check, Status
from restore_diff.files import replace_atomically

PACKAGES = ("restore_diff", "torch", "torchvision", "numpy", "pillow", "scikit-image", "kornia")
EXTRAS = {
    "pyiqa": "scores without clean images, restore_diff[iqa]",
    "torch_fidelity": "FID and KID, restore_diff[fid]",
    "onnx": "export",
    "onnxruntime": "export, checked",
}
PREFETCHED = 4
"""Batches that each worker process keeps ready."""
BYTES_PER_PARAMETER = 16
"""In a checkpoint: weights, averaged weights and the two moments of AdamW, float32."""
GIB = 2**30
IMPORT_PAIR = "import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)"


def check_machine(config: ExperimentConfig, is_chosen: bool, device: str, runs: Path) -> Iterator[Check]:
    """The checks one after the other; `is_chosen`: the user named the config, so what it needs must be there."""
    yield _found("versions", "ok", f"python {platform.python_version()}, {', '.join(map(_version, PACKAGES))}")
    pair = _torch_pair()
    yield pair
    yield _shared_memory(config)
    yield _run_folder(runs)
    yield _extras()
    if pair.status == "FAIL":
        yield _found("rest", "note", "device, disk space and LPIPS were not looked at: they need torch and torchvision")
        return
    looks: tuple[Callable[[], Check], ...] = (
        lambda: _device(device),
        lambda: _disk(config, is_chosen, runs),
        lambda: _lpips(config),
    )
    for look in looks:
        yield look()


def _found(name: str, status: Status, text: str, advice: str = "") -> Check:
    return Check("machine", name, status, text, advice)


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} not installed" if package != "restore_diff" else "restore_diff from its source tree"


def _torch_pair() -> Check:
    """In a process of its own: with the wrong torchvision the import itself fails, or worse."""
    command = [sys.executable, "-c", IMPORT_PAIR]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _found("torch", "FAIL", f"torch and torchvision could not be tried: {error}")
    if done.returncode == 0:
        return _found("torch", "ok", "torch and torchvision fit each other")
    lines = done.stderr.strip().splitlines()
    reason = lines[-1] if lines else f"the process ended with {done.returncode}"
    advice = "install both in one command and from one index: pip install --force-reinstall torch torchvision"
    return _found("torch", "FAIL", f"torch and torchvision do not work together: {reason}", advice)


def _device(name: str) -> Check:
    import torch

    from restore_diff.build import DeviceError, select_device

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            device = select_device(name)
    except DeviceError as error:
        return _found("device", "FAIL", str(error))
    if device.type == "cpu":
        cores = f"CPU only, {_num_cores()} cores, {torch.get_num_threads()} threads"
        driver = next((str(w.message).splitlines()[0] for w in caught if "driver" in str(w.message).lower()), "")
        if driver:
            return _found("device", "warn", f"{cores}; the GPU cannot be used: {driver}", "update the NVIDIA driver")
        return _found("device", "note", f"{cores}; training is for a GPU, `tiny` and restoring work here")
    try:
        layer = torch.nn.Conv2d(3, 8, 3, padding=1).to(device)
        is_finite = bool(layer(torch.rand(1, 3, 32, 32, device=device)).isfinite().all())
    except (RuntimeError, AssertionError) as error:  # no kernels for this GPU, a driver that does not fit, no memory
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return _found("device", "FAIL", f"{device} fails at a small convolution: {reason}", "update driver or torch")
    if not is_finite:
        return _found("device", "FAIL", f"{device} computes values that are not finite")
    if device.type != "cuda":
        return _found("device", "ok", f"{device} works")
    memory = torch.cuda.get_device_properties(device).total_memory / GIB
    return _found("device", "ok", f"{torch.cuda.get_device_name(device)} with {memory:.0f} GiB works")


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shared_memory(config: ExperimentConfig, folder: Path = Path("/dev/shm")) -> Check:
    """Crops travel from the workers through it; where it is full, a worker dies of a bus error."""
    data, training = config.data, config.training
    batch_bytes = training.batch_size // training.num_micro_batches * 2 * 3 * 4 * data.crop_size_px**2
    needed = data.num_workers * PREFETCHED * batch_bytes
    use = f"{data.num_workers} workers x {PREFETCHED} batches of {batch_bytes / 2**20:.0f} MiB"
    if not folder.is_dir():
        return _found("memory", "note", f"this system has no {folder}; {use} go through its own shared memory")
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**20:.0f} MiB of shared memory free, {use} need {needed / 2**20:.0f}"
    if free >= needed:
        return _found("memory", "ok", text)
    size = max(1, -(-2 * needed // GIB))
    return _found("memory", "FAIL", text, f"start the container with --shm-size={size}g, or set data.num_workers=0")


def _run_folder(runs: Path) -> Check:
    folder = _existing(runs)
    trial = folder / f".doctor-{os.getpid()}"
    try:
        replace_atomically(trial, b"whole")
        is_whole = trial.read_bytes() == b"whole"
        trial.unlink()
    except OSError as error:
        advice = "choose a folder that you may write to, on a disk that works"
        return _found("run folder", "FAIL", f"{folder.resolve()}: {error.strerror or error}", advice)
    status: Status = "ok" if is_whole else "FAIL"
    return _found("run folder", status, f"{folder.resolve()}: write, sync and rename {'work' if is_whole else 'fail'}")


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _disk(config: ExperimentConfig, is_chosen: bool, runs: Path) -> Check:
    import torch

    from restore_diff.models.unet import make_network

    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in make_network(config.model).parameters())
    num_files = config.training.num_checkpoints_kept + 2  # the best one, and the one that is being written
    one = num_parameters * BYTES_PER_PARAMETER
    free = shutil.disk_usage(_existing(runs)).free
    model = f"{num_parameters / 1e6:.1f} M parameters{'' if is_chosen else ' (default model)'}"
    text = f"{free / 1e9:.1f} GB free; {num_files} checkpoints of {one / 1e9:.2f} GB, {model}"
    if free >= num_files * one:
        return _found("disk", "ok", text)
    advice = "free some space, or lower training.num_checkpoints_kept"
    return _found("disk", "FAIL" if is_chosen else "warn", text, advice)


def _lpips(config: ExperimentConfig) -> Check:
    from restore_diff import build

    try:
        metric = build.lpips(config)
    except ValueError as error:
        return _found("LPIPS", "warn", str(error))
    if metric is None:
        return _found("LPIPS", "note", "evaluation.lpips is none: it is not computed")
    if isinstance(metric, build.MetricUnavailable):
        return _found("LPIPS", "warn", "no weights, so test.py leaves it out", str(metric))
    return _found("LPIPS", "ok", f"weights of {metric.net} found, sha256 {metric.sha256[:8]}")


def _extras() -> Check:
    present = {package: importlib.util.find_spec(package) is not None for package in EXTRAS}
    listed = ", ".join(
        f"{package} {'found' if present[package] else f'missing ({EXTRAS[package]})'}" for package in EXTRAS
    )
    return _found("extras", "ok" if all(present.values()) else "note", f"optional: {listed}")
