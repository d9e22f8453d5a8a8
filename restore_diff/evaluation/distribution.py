"""How far the restored images of a test set, taken together, are from its clean ones: FID and KID."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from restore_diff.data.images import read_rgb_uint8
from restore_diff.data.names import PairPath
from restore_diff.files import replace_atomically
from restore_diff.metrics.distribution import RESIZE, InceptionDistance
from restore_diff.metrics.weights import MetricUnavailable
from restore_diff.provenance import environment

LEAST_IMAGES = 2048
"""Inception's number of features: with fewer images the covariances in FID are of too low a rank."""


def score_distributions(
    pairs: Sequence[PairPath], folder: Path, device: torch.device, *, download: bool = False
) -> list[str]:
    """Compare the images of finished pairs with their clean ones; write distribution.json; return lines to print."""
    found: dict[str, Any] = {"n": len(pairs), "resize": RESIZE, "environment": environment() | {"argv": sys.argv}}
    try:
        metric = InceptionDistance(device, download=download)
        finished = (read_rgb_uint8(pair.degraded) for pair in pairs if pair.degraded is not None)
        distances = metric(finished, (read_rgb_uint8(pair.clean) for pair in pairs))
        found |= {"status": "computed", "tool": metric.tool} | distances._asdict()
        kid = f"KID {distances.kid:.5f} ± {distances.kid_std:.5f}"
        lines = [f"FID {distances.fid:.3f}, {kid} (n={len(pairs)}, {metric.tool}, {RESIZE})"]
        if len(pairs) < LEAST_IMAGES:
            lines.append(f"warning: of {len(pairs)} images, fewer than 2,048, FID is biased upwards: read KID")
    except MetricUnavailable as reason:
        found |= {"status": "unavailable", "reason": str(reason)}
        lines = [f"FID, KID not computed: {reason}"]
    folder.mkdir(parents=True, exist_ok=True)
    replace_atomically(folder / "distribution.json", (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())
    return lines
