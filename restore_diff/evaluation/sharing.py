"""A test set shared out among the processes that torchrun started: each scores some images, every one gets all rows."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby, zip_longest
from typing import Any

import torch
from torch import distributed

from restore_diff.evaluation.scoring import Row

PATIENCE = timedelta(days=7)
"""How long a process waits for the others' rows. One that ends is noticed at once."""


class OtherRankFailed(RuntimeError):
    """Another process could not score its share, so there is no result."""


@dataclass(frozen=True)
class Share:
    """The images at every `num_ranks`-th position from `rank` on; by default, all of them."""

    rank: int = 0
    num_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def positions(self, num_images: int) -> range:
        """Of this share in a test set."""
        return range(self.rank, num_images, self.num_ranks)

    def all_rows(self, score: Callable[[], list[Row]]) -> list[Row]:
        """The rows of all shares in the order of the test set, on every rank; `score` gives those of this share.

        What `score` raises is raised here once the others know of it: they raise OtherRankFailed.
        """
        if self.num_ranks == 1:
            return score()
        try:
            rows, failure = score(), None
        except Exception as error:
            rows, failure = [], error
        shares = self._exchange((rows, None if failure is None else f"{type(failure).__name__}: {failure}"))
        if failure is not None:
            raise failure
        if failed := [f"rank {rank}: {reason}" for rank, (_, reason) in enumerate(shares) if reason]:
            raise OtherRankFailed("; ".join(failed))
        return in_order([rows for rows, _ in shares])

    def _exchange(self, mine: tuple[list[Row], str | None]) -> list[tuple[list[Row], str | None]]:
        shares: list[Any] = [None] * self.num_ranks
        try:
            distributed.all_gather_object(shares, mine)
        except RuntimeError as error:
            raise OtherRankFailed("another process ended before its images were scored") from error
        return shares


WHOLE = Share()
"""Everything, in one process."""


@contextmanager
def sharing() -> Iterator[Share]:
    """The share of this process, inside the block: its rank's where torchrun started several, else the whole."""
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks == 1:
        yield WHOLE
        return
    if torch.cuda.is_available():  # what is asked to be on "cuda" goes to this process's own GPU
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    _join()
    try:
        yield Share(distributed.get_rank(), num_ranks)
    finally:
        distributed.destroy_process_group()


def _join() -> None:
    """Form the default process group.

    On one machine, torchrun restarts processes with the store of those before them, whose addresses in it lead nowhere:
    each start then needs names of its own. On several machines the restarts are counted by each for itself.
    """
    from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.rendezvous import rendezvous

    store, rank, num_ranks = next(rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        store = PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks, timeout=PATIENCE)


def in_order(shares: Sequence[list[Row]]) -> list[Row]:
    """The rows of a test set from those of each rank: image i is the next one of rank i % number of ranks."""
    images = ([list(rows) for _, rows in groupby(share, key=lambda row: row.name)] for share in shares)
    return [row for turn in zip_longest(*images, fillvalue=()) for rows in turn for row in rows]
