"""Weights that metrics need: in torch's cache, fetched only where that is asked for, checked by the files' names."""

import hashlib
import re
from pathlib import Path

import torch


class MetricUnavailable(RuntimeError):
    """A metric cannot be computed here; the message is one line that says what to do."""


def cached_weights(url: str, size: str, alternative: str, *, download: bool = False) -> Path:
    """The file of `url` in torch's cache, with `download` fetched there where it is missing, its hash checked.

    MetricUnavailable, which says what to put where, `alternative` to it, or why the download failed.
    """
    file_name = url.rpartition("/")[2]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if download and not cached.is_file():
        try:
            torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:  # no network; another hash than the one in the name
            raise MetricUnavailable(f"{url} could not be downloaded to {cached}: {error}") from error
    if not cached.is_file():
        raise MetricUnavailable(f"put {file_name} ({size}, {url}) at {cached}, or {alternative}")
    return cached


def checked_sha256(path: Path) -> str:
    """The file's sha256, which must start with the digits in its name where it has some, as in alexnet-7be5be79.pth.

    MetricUnavailable where it does not.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    promised = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", path.name)
    if promised and not digest.startswith(promised[1]):
        raise MetricUnavailable(f"{path} is damaged: its sha256 starts with {digest[:8]}, not with {promised[1]}")
    return digest
