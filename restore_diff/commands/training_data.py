"""What a run trains on, kept in its folder, so that data which changed between two starts are told."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from restore_diff.data.loading import TrainingBatches
from restore_diff.training.run_folder import RunFolder

RECORD = "data.json"


def record_data(run: RunFolder, report: Callable[[str], None], batches: TrainingBatches) -> None:
    """Keep number and order of the training pairs; report where they are not those of the start before."""
    before: Any = {}
    with suppress(OSError, ValueError):  # the first start, or a file that someone has written into
        before = json.loads((run.path / RECORD).read_text())
    now: dict[str, object] = {"num_pairs": batches.order.num_pairs, "order": batches.order.fingerprint()}
    if isinstance(before, dict) and before.get("order", now["order"]) != now["order"]:
        counts = f"{before.get('num_pairs')} -> {now['num_pairs']} pairs"
        report(f"WARNING the training data changed since the last start ({counts}): their order is another one now")
    run.write_json(RECORD, now)
