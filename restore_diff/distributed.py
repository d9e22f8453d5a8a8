"""Several processes: ranks, sharing of work, gathering, failures of other processes."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from itertools import groupby, zip_longest
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from restore_diff.errors import UserError

# Errors that end training early.


class TrainingStopped(RuntimeError):
    """Training cannot continue; the checkpoints are unchanged. `step` is the step that failed."""

    exit_code = 4

    def __init__(self, step: int, reason: str):
        super().__init__(reason)
        self.step, self.reason = step, reason


class TrainingInterrupted(RuntimeError):
    """A signal stopped training after saving; the same command continues after `step`."""

    def __init__(self, step: int, number: signal.Signals):
        super().__init__(f"stopped by {number.name}, " + (f"saved step {step}" if step else "before the first step"))
        self.step, self.exit_code = step, 128 + number


# Several processes that train one model or score one test set: sums, agreement and failures.

PATIENCE = timedelta(minutes=30)
"""Timeout within a step for a process that hangs, e.g. on its disk."""

FAILURE = "restore_diff/failure"


class OtherProcessFailed(UserError):
    """Another process failed or ended, so this one cannot continue."""

    exit_code = 4


class Processes:
    """This process, `rank`, of `num` that torchrun started; by default the only one. They share a test set."""

    def __init__(self, rank: int = 0, num: int = 1):
        self.rank, self.num = rank, num

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def gather(self, mine: Any) -> list[Any]:
        """Small values of all processes by rank, on each of them."""
        if self.num == 1:
            return [mine]
        values: list[Any] = [None] * self.num
        distributed.all_gather_object(values, mine)
        return values

    def wait(self) -> None:
        """Wait for all processes."""
        self.gather(None)

    def positions(self, num_images: int) -> range:
        """The images of a test set that this process scores: every `num`-th from `rank` on."""
        return range(self.rank, num_images, self.num)

    def all_rows(self, score: Callable[[], list[Any]]) -> list[Any]:
        """The rows of all processes in the order of the test set, on each of them; `score` gives those of this one.

        An error of `score` is raised here after the others were informed: they raise OtherProcessFailed.
        """
        if self.num == 1:
            return score()
        try:
            rows, failure = score(), None
        except Exception as error:
            rows, failure = [], error
        try:
            everywhere = self.gather((rows, None if failure is None else f"{type(failure).__name__}: {failure}"))
        except RuntimeError as error:
            raise OtherProcessFailed("another process ended before its images were scored") from error
        if failure is not None:
            raise failure
        if failed := [f"rank {rank}: {reason}" for rank, (_, reason) in enumerate(everywhere) if reason]:
            raise OtherProcessFailed("; ".join(failed))
        return in_order([rows for rows, _ in everywhere])


class TrainingProcesses(Processes):
    """Processes that share each batch.

    The default process group must exist. It carries messages, and may take days over one: a validation, a save.
    Gradients have a group of their own, NCCL on GPUs, in which nobody waits longer than PATIENCE.
    """

    def __init__(self, rank: int = 0, num: int = 1, device: torch.device | None = None):
        super().__init__(rank, num)
        if num == 1:
            return
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        self._store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        if self.is_first:
            self._store.delete_key(FAILURE)  # left by the processes before a restart
        backend = "nccl" if device is not None and device.type == "cuda" else "gloo"
        self._gradients: Any = distributed.new_group(backend=backend, timeout=PATIENCE)

    def wrap_ddp(self, network: nn.Module) -> nn.Module:
        """Wrap in DDP: weights of the first process, gradients summed over the processes."""
        if self.num == 1:
            return network
        # No static_graph: in torch 2.15 its first backward under no_sync ends in an internal error.
        parallel = DistributedDataParallel(network, process_group=self._gradients, gradient_as_bucket_view=True)
        parallel.register_comm_hook(self._gradients, _sum)  # the default divides by the number of processes
        return parallel

    def without_sync(self, network: nn.Module) -> AbstractContextManager[object]:
        """Inside, gradients are not synchronised: the next backward outside sums them too."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def all_losses(self, mine: Tensor) -> Tensor:
        """The scalars of all processes, (num,), on each of them, without a host sync."""
        losses = mine.new_zeros(self.num)
        losses[self.rank] = mine
        if self.num > 1:
            distributed.all_reduce(losses, group=self._gradients)
        return losses

    def agreed_signal(self, mine: signal.Signals | None) -> signal.Signals | None:
        """The signal that any process received, so that all stop after the same step.

        A few bytes between the CPUs, about 0.1 ms on one machine: a GPU goes on computing meanwhile.
        """
        if self.num == 1:
            return mine
        number = torch.tensor(0 if mine is None else int(mine))
        distributed.all_reduce(number, distributed.ReduceOp.MAX)
        return signal.Signals(int(number)) if number else None

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error in one process ends all: the others raise OtherProcessFailed with its message.

        They notice when they next want something of it, because a process that ends closes its connections.
        """
        try:
            yield
        except Exception as error:
            if self.num == 1:
                raise
            if isinstance(error, OtherProcessFailed) or _is_lost_connection(error):
                raise OtherProcessFailed(self._failure() or _last_words(error)) from error
            if not isinstance(error, TrainingInterrupted):  # raised by all processes
                self._tell(error)
            raise

    def _tell(self, error: Exception) -> None:
        text = str(error).partition("\n")[0]
        # Set only if absent: the first failure is the cause of the others.
        self._store.compare_set(FAILURE, "", f"rank {self.rank}: {type(error).__name__}: {text}")

    def _failure(self) -> str | None:
        try:
            return self._store.get(FAILURE).decode() if self._store.check([FAILURE]) else None
        except distributed.DistError:  # the store ended with its process
            return None


ALONE = TrainingProcesses()


def _sum(group, bucket) -> torch.futures.Future[Tensor]:
    """A communication hook of DDP: (ProcessGroup, GradBucket), which a torch without distributed does not have."""
    work = distributed.all_reduce(bucket.buffer(), group=group, async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


def _is_lost_connection(error: Exception) -> bool:
    return isinstance(error, distributed.DistError) or (type(error) is RuntimeError and "gloo" in str(error))


def _last_words(error: Exception) -> str:
    if isinstance(error, OtherProcessFailed):
        return str(error)
    return "another process exited unexpectedly (killed?), or the network between the processes failed"


# The start by torchrun.

PATIENCE_FOR_ROWS = timedelta(days=7)
"""Timeout of the default group; a process that ends is noticed at once."""


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, inside the block; without it, this one alone."""
    num = int(os.environ.get("WORLD_SIZE", "1"))
    if num == 1:
        yield ALONE
        return
    if torch.cuda.is_available():  # "cuda" means the GPU of this process
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    _join()
    try:
        yield Processes(distributed.get_rank(), num)
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
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks, timeout=PATIENCE_FOR_ROWS)


def in_order(shares: Sequence[list[Any]]) -> list[Any]:
    """The rows of a test set from those of each rank: image i is the next one of rank i % number of ranks."""
    images = ([list(rows) for _, rows in groupby(share, key=lambda row: row.name)] for share in shares)
    return [row for turn in zip_longest(*images, fillvalue=()) for rows in turn for row in rows]
