"""Versions, source revision, and memory of the machine that runs this."""

import platform
import subprocess
from pathlib import Path

import torch

from restore_diff import __version__, registry


def versions() -> dict[str, str]:
    """Versions of what decides the last bit of every number: packages, number of threads, plugin files by hash."""
    plugins = {f"plugin {Path(path).name}": digest[:16] for path, digest in sorted(registry.LOADED.items())}
    return {
        "restore_diff": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "num_threads": str(torch.get_num_threads()),
        **plugins,
    }


def environment() -> dict[str, object]:
    """Versions, machine and source revision, as plain values for a JSON file."""
    return {
        "versions": versions(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """The commit of the source tree that this runs from; None where it was installed, or git is not there."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


# What memory there is, and how it shows that there was none left.


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine or its accelerator had no memory left; on the CPU, torch raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU; None where it is not known or not scarce."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
