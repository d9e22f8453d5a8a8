"""LPIPS (Zhang et al., 2018) with the layers of the lpips package, and cached weights of metrics with checked hashes.

The package ships the linear heads; the ImageNet trunk is a torchvision file that the user provides or downloads.
Without it LPIPS raises MetricUnavailable; random weights are never used.
"""

import hashlib
import math
import os
import re
import sys
import warnings
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from restore_diff.errors import UserError
from restore_diff.tensors import Images


class MetricUnavailable(UserError):
    """A metric cannot be computed; the message is one line with the remedy."""


def cached_weights(url: str, size: str, command: str, *, download: bool = False) -> Path:
    """Return the file of `url` in torch's cache; `download` fetches a missing one and checks its hash.

    MetricUnavailable names the file and the `command` that fetches it, or the reason why the download failed.
    """
    file_name = url.rpartition("/")[2]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if download and not cached.is_file():
        try:
            options = {"map_location": "cpu", "check_hash": True, "weights_only": True}
            torch.hub.load_state_dict_from_url(url, progress=sys.stderr.isatty(), **options)
        except (OSError, RuntimeError) as error:  # no network; another hash than the one in the name
            raise MetricUnavailable(f"{url} could not be downloaded to {cached}: {error}") from error
    if not cached.is_file():
        raise MetricUnavailable(f"{file_name} ({size}) is not on this disk. Fetch it: {command}")
    return cached


def checked_sha256(path: Path) -> str:
    """Return a file's sha256. MetricUnavailable if it contradicts the name, as in alexnet-owt-7be5be79.pth."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    promised = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", path.name)
    if promised and not digest.startswith(promised[1]):
        raise MetricUnavailable(f"{path} is damaged: its sha256 starts with {digest[:8]}, not with {promised[1]}")
    return digest


WEIGHTS_VARIABLE = "RESTORE_DIFF_LPIPS_WEIGHTS"
VERSION = "0.1"

TrunkName = Literal["alex", "vgg"]


class Trunk(NamedTuple):
    file_name: str
    size: str
    min_side_px: int
    pixels_per_chunk: int


TRUNKS: dict[TrunkName, Trunk] = {
    "alex": Trunk("alexnet-owt-7be5be79.pth", "233 MB", 31, 4_000_000),
    "vgg": Trunk("vgg16-397923af.pth", "528 MB", 16, 1_000_000),
}
SOURCE = "https://download.pytorch.org/models/"


class LPIPS(nn.Module):
    """Perceptual distance of image pairs, version 0.1, frozen; 0 for equal images, larger is worse.

    `trunk_weights` None: the file of `find_lpips_weights`. MetricUnavailable for missing or unsuitable weights.
    """

    def __init__(self, net: TrunkName = "alex", trunk_weights: Path | None = None) -> None:
        super().__init__()
        path = find_lpips_weights(net) if trunk_weights is None else Path(trunk_weights)
        self.net: TrunkName = net
        self.version = VERSION
        self.sha256 = checked_sha256(path)
        self.distance = _build(net, _read_trunk(path), path)

    @property
    def label(self) -> str:
        """Column name in tables, e.g. "LPIPS(alex,v0.1)"."""
        return f"LPIPS({self.net},v{self.version})"

    @torch.no_grad()
    def forward(self, pred: Images, target: Images) -> Tensor:
        """Distance of each pair, (B,) float32, of (B, 3, H, W) images in [0, 1], on their device, without resizing.

        Images smaller than the trunk accepts (31 px for alex, 16 px for vgg) give NaN. ValueError for other shapes.
        """
        if pred.shape != target.shape or pred.ndim != 4 or pred.shape[1] != 3:
            raise ValueError(f"images must both be (B, 3, H, W), got {tuple(pred.shape)} and {tuple(target.shape)}")
        trunk = TRUNKS[self.net]
        if min(pred.shape[-2:]) < trunk.min_side_px:
            return torch.full((pred.shape[0],), math.nan, device=pred.device)
        # float64 excludes TF32, which only CUDA has, whatever the global settings.
        precision = torch.float64 if pred.device.type == "cuda" else torch.float32
        distance = self.distance.to(pred.device, precision)
        # Chunks bound the memory; the score of a pair does not depend on them.
        size = max(1, trunk.pixels_per_chunk // (pred.shape[-2] * pred.shape[-1]))
        chunks = zip(pred.to(precision).split(size), target.to(precision).split(size), strict=True)
        with torch.autocast(pred.device.type, enabled=False):
            return torch.cat([distance(a * 2 - 1, b * 2 - 1).flatten().float() for a, b in chunks])

    def train(self, mode: bool = True) -> "LPIPS":
        """Stay in evaluation mode: dropout in the heads would make scores random."""
        return super().train(False)


def find_lpips_weights(net: TrunkName = "alex", path: Path | None = None, *, download: bool = False) -> Path:
    """Return the file of LPIPS trunk weights: `path`, else RESTORE_DIFF_LPIPS_WEIGHTS, else torch's cache.

    It is torchvision's ImageNet checkpoint (.pth) or its features alone (.safetensors, .pth), with keys such as
    features.0.weight. `download` fetches a missing file to the cache. MetricUnavailable if there is none.
    """
    named = path or os.environ.get(WEIGHTS_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise MetricUnavailable(f"no such file with LPIPS weights: {named}")
        return Path(named)
    trunk = TRUNKS[net]
    return cached_weights(SOURCE + trunk.file_name, trunk.size, "restore-diff test --download", download=download)


def _read_trunk(path: Path) -> dict[str, Tensor]:
    """Read the tensors of `features` by name, without the classifier of a whole checkpoint."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and pickle raise many types for damaged files
        raise MetricUnavailable(f"{path} cannot be read as weights: {error}".splitlines()[0]) from error
    return {name: tensor.float() for name, tensor in weights.items() if name.startswith("features.")}


def _build(net: TrunkName, weights: dict[str, Tensor], path: Path) -> nn.Module:
    """Build the package's module with these weights and its own heads, without output or random draws."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision by a deprecated keyword
        import lpips

        # The meta device allocates and draws nothing, so no random weights can remain.
        with torch.device("meta"):
            module = lpips.LPIPS(net=net, version=VERSION, pretrained=False, pnet_rand=True, verbose=False)
    with (resources.files("lpips") / "weights" / f"v{VERSION}" / f"{net}.pth").open("rb") as file:
        heads = torch.load(file, map_location="cpu", weights_only=True)
    trunk: dict[str, Tensor] = {}
    for name, empty in module.net.state_dict().items():
        source = "features." + name.split(".", 1)[1]  # slice2.3.weight is features.3.weight
        if source not in weights or weights[source].shape != empty.shape:
            raise MetricUnavailable(f"{path} does not hold the {net} trunk: {source} is missing or of another shape")
        trunk[f"net.{name}"] = weights[source]
    module.load_state_dict(heads | trunk, strict=False, assign=True)
    return module.eval().requires_grad_(False)
