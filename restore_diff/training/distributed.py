"""Several processes that train one model, started by torchrun: what they sum, agree on and tell each other."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from restore_diff.training.stops import TrainingInterrupted

PATIENCE = timedelta(minutes=30)
"""How long a process waits within a step for another that neither comes nor ends: one whose disk hangs, say."""

FAILURE = "restore_diff/failure"


class OtherProcessFailed(RuntimeError):
    """Another process failed or is gone, so this one cannot go on either."""

    exit_code = 4


class Processes:
    """This process, `rank`, among `num` that take their parts of each batch; by default the only one.

    The default process group must exist. It carries words, and may take days over one: a validation, a save. Gradients
    have a group of their own, NCCL on GPUs, in which nobody waits longer than PATIENCE.
    """

    def __init__(self, rank: int = 0, num: int = 1, device: torch.device | None = None):
        self.rank, self.num = rank, num
        if num == 1:
            return
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        self._store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        if self.is_first:
            self._store.delete_key(FAILURE)  # of the processes that these were restarted for
        backend = "nccl" if device is not None and device.type == "cuda" else "gloo"
        self._gradients: Any = distributed.new_group(backend=backend, timeout=PATIENCE)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def sharing_gradients(self, network: nn.Module) -> nn.Module:
        """The network, started from the first process's weights; its gradients become sums over the processes."""
        if self.num == 1:
            return network
        # No static_graph: in torch 2.15 its first backward under no_sync ends in an internal error.
        parallel = DistributedDataParallel(network, process_group=self._gradients, gradient_as_bucket_view=True)
        parallel.register_comm_hook(self._gradients, _sum)  # by itself it would divide by the number of processes
        return parallel

    def keeping_gradients(self, network: nn.Module) -> AbstractContextManager[object]:
        """Inside, gradients stay this process's own: they are summed with those of the next backward outside."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def all_losses(self, mine: Tensor) -> Tensor:
        """The scalars of all processes, (num,), on each of them. A GPU is not waited for."""
        losses = mine.new_zeros(self.num)
        losses[self.rank] = mine
        if self.num > 1:
            distributed.all_reduce(losses, group=self._gradients)
        return losses

    def agreed_signal(self, mine: signal.Signals | None) -> signal.Signals | None:
        """A signal that any process got, so that all stop after the same step.

        A few bytes between the CPUs, about 0.1 ms on one machine: a GPU goes on computing meanwhile.
        """
        if self.num == 1:
            return mine
        number = torch.tensor(0 if mine is None else int(mine))
        distributed.all_reduce(number, distributed.ReduceOp.MAX)
        return signal.Signals(int(number)) if number else None

    def gather(self, mine: Any) -> list[Any]:
        """The small values of all processes by rank, on each of them."""
        if self.num == 1:
            return [mine]
        values: list[Any] = [None] * self.num
        distributed.all_gather_object(values, mine)
        return values

    def wait(self) -> None:
        """Until all are here."""
        self.gather(None)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one process raises inside ends all: the others raise OtherProcessFailed with its message.

        They notice when they next want something of it, because a process that ends closes its connections.
        """
        try:
            yield
        except Exception as error:
            if self.num == 1:
                raise
            if isinstance(error, OtherProcessFailed) or _is_lost_connection(error):
                raise OtherProcessFailed(self._failure() or _last_words(error)) from error
            if not isinstance(error, TrainingInterrupted):  # which all agreed on
                self._tell(error)
            raise

    def _tell(self, error: Exception) -> None:
        text = str(error).partition("\n")[0]
        # Set where it is absent: what failed first is the cause of the rest.
        self._store.compare_set(FAILURE, "", f"rank {self.rank}: {type(error).__name__}: {text}")

    def _failure(self) -> str | None:
        try:
            return self._store.get(FAILURE).decode() if self._store.check([FAILURE]) else None
        except distributed.DistError:  # the store has ended with the process that kept it
            return None


ALONE = Processes()


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
    return "another process ended without a word (killed?), or the network between them did"
