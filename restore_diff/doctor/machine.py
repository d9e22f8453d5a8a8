"""Checks whether this machine can train, test and restore, and the result type of all checks.

Torch is imported only after a separate process has imported torch and torchvision together.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from restore_diff.config import ExperimentConfig
from restore_diff.data.names import first_names
from restore_diff.files import replace_atomically

Status = Literal["ok", "note", "warn", "FAIL"]
"""note: no fault, for information. warn: a score may be misleading. FAIL: training or testing will not work."""


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    subject: str
    """"machine", or the data set."""
    name: str
    status: Status
    text: str
    advice: str = ""
    items: Sequence[str] = ()
    """All files or pairs concerned; `line` shows the first ten."""

    def line(self) -> str:
        """One line: status, name, finding, advice."""
        named = f": {first_names(self.items)}" if self.items else ""
        return f"{self.status:4}  {self.name:10}  {self.text}{named}{f'; {self.advice}' if self.advice else ''}"


PACKAGES = ("restore_diff", "torch", "torchvision", "numpy", "pillow", "scikit-image", "kornia")
EXTRAS = {
    "pyiqa": "scores without clean images, restore_diff[iqa]",
    "torch_fidelity": "FID and KID, restore_diff[fid]",
    "gradio": "the app, restore_diff[app]",
    "onnx": "export",
    "onnxruntime": "export, checked",
}
BYTES_PER_PARAMETER = 16
"""In a checkpoint: weights, averaged weights and the two moments of AdamW, float32."""
MIB, GIB = 2**20, 2**30
IMPORT_PAIR = "import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)"


def check_machine(config: ExperimentConfig, is_chosen: bool, device: str, runs: Path) -> Iterator[Check]:
    """Yield all checks. `is_chosen`: the user named the config, so too little disk space for it is a failure."""
    yield _found("versions", "ok", f"python {platform.python_version()}, {', '.join(map(_version, PACKAGES))}")
    pair = _torch_pair()
    yield pair
    yield _shared_memory(config)
    yield _run_folder(runs)
    yield _extras()
    if pair.status == "FAIL":
        yield _found("rest", "note", "device, disk space and LPIPS were not checked: they need torch and torchvision")
        return
    yield _device(device)
    yield _disk(config, is_chosen, runs)
    yield _lpips(config)


def _found(name: str, status: Status, text: str, advice: str = "") -> Check:
    return Check("machine", name, status, text, advice)


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} not installed" if package != "restore_diff" else "restore_diff from its source tree"


def _torch_pair() -> Check:
    """Import both in a separate process, because an incompatible torchvision can crash the interpreter."""
    command = [sys.executable, "-c", IMPORT_PAIR]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _found("torch", "FAIL", f"torch and torchvision could not be imported: {error}")
    if done.returncode == 0:
        return _found("torch", "ok", "torch and torchvision are compatible")
    reason = (done.stderr.strip().splitlines() or [f"the process exited with {done.returncode}"])[-1]
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
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = f"CPU only, {num_cores} cores, {torch.get_num_threads()} threads"
        driver = next((str(w.message).splitlines()[0] for w in caught if "driver" in str(w.message).lower()), "")
        if driver:
            return _found("device", "warn", f"{cores}; the GPU cannot be used: {driver}", "update the NVIDIA driver")
        return _found("device", "note", f"{cores}; restoring and training `tiny` work; other training needs a GPU")
    try:
        layer = torch.nn.Conv2d(3, 8, 3, padding=1).to(device)
        is_finite = bool(layer(torch.rand(1, 3, 32, 32, device=device)).isfinite().all())
    except (RuntimeError, AssertionError) as error:  # no kernels for this GPU, wrong driver, no memory
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return _found("device", "FAIL", f"{device} fails at a small convolution: {reason}", "update driver or torch")
    if not is_finite:
        return _found("device", "FAIL", f"{device} computes values that are not finite")
    if device.type != "cuda":
        return _found("device", "ok", f"{device} works")
    memory = torch.cuda.get_device_properties(device).total_memory / GIB
    return _found("device", "ok", f"{torch.cuda.get_device_name(device)} with {memory:.0f} GiB works")


def _shared_memory(config: ExperimentConfig) -> Check:
    """Workers pass crops through shared memory, or through pipes where it is too small."""
    from restore_diff.data import workers

    data, training = config.data, config.training
    batch_bytes = training.batch_size // training.num_micro_batches * 2 * 3 * 4 * data.crop_size_px**2
    use = f"{data.num_workers} workers with batches of {batch_bytes / MIB:.0f} MiB"
    if not workers.SHARED_MEMORY.is_dir():
        return _found("memory", "note", f"this system has no {workers.SHARED_MEMORY}; {use} use its own shared memory")
    problem = workers.describe(workers.choose_transport(data.num_workers, batch_bytes), batch_bytes)
    if not problem:
        return _found("memory", "ok", f"enough shared memory free for {use}")
    text, _, advice = problem.partition("; ")
    return _found("memory", "warn", text, advice)


def _run_folder(runs: Path) -> Check:
    folder = _existing(runs)
    trial = folder / f".doctor-{os.getpid()}"
    try:
        replace_atomically(trial, b"content")
        is_intact = trial.read_bytes() == b"content"
        trial.unlink()
    except OSError as error:
        advice = "choose a writable folder on an intact disk"
        return _found("run folder", "FAIL", f"{folder.resolve()}: {error.strerror or error}", advice)
    status: Status = "ok" if is_intact else "FAIL"
    return _found("run folder", status, f"{folder.resolve()}: write, sync and rename {'work' if is_intact else 'fail'}")


def _existing(folder: Path) -> Path:
    """The folder, or its nearest existing parent."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _disk(config: ExperimentConfig, is_chosen: bool, runs: Path) -> Check:
    import torch

    from restore_diff.models.unet import make_network

    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in make_network(config.model).parameters())
    num_files = config.training.num_checkpoints_kept + 2  # the best checkpoint and the one being written
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
        return _found("LPIPS", "note", "evaluation.lpips is none: LPIPS is not computed")
    if isinstance(metric, build.MetricUnavailable):
        return _found("LPIPS", "warn", "no weights, test.py omits LPIPS", str(metric))
    return _found("LPIPS", "ok", f"weights of {metric.net} found, sha256 {metric.sha256[:8]}")


def _extras() -> Check:
    missing = [package for package in EXTRAS if importlib.util.find_spec(package) is None]
    listed = ", ".join(
        f"{package} missing ({purpose})" if package in missing else f"{package} found"
        for package, purpose in EXTRAS.items()
    )
    return _found("extras", "note" if missing else "ok", f"optional: {listed}")
