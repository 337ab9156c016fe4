"""One fit shared by several processes, one for each GPU (`torchrun`): each trains on its share of every batch."""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mammo.core.errors import ConfigError
from mammo.models.build import Classifier

WATCH_S: Final = 1.0
"""How often a process looks whether its launcher still lives."""


@dataclass(frozen=True)
class Team:
    """The processes that share one fit. Alone, everything is as if there were no team.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what the team has made."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's part of `n` things in a row: contiguous, and no two parts differ by more than one."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def wrap(self, classifier: Classifier) -> nn.Module:
        """The network to call while training: its backward pass averages the gradients of the team.

        On GPUs BatchNorm takes its statistics over the whole batch, as one process would; on CPUs, where PyTorch
        cannot, over each share.
        """
        if self.size == 1:
            return classifier
        if next(classifier.parameters()).is_cuda:
            nn.SyncBatchNorm.convert_sync_batchnorm(classifier)
        return DistributedDataParallel(classifier)

    def mean_loss(self, loss: Tensor, share: slice, n: int) -> Tensor:
        """A share's mean loss, scaled so that the team's mean of it is the mean over all `n` patches of the batch."""
        return loss if self.size == 1 else loss * ((share.stop - share.start) * self.size / n)

    def average(self, value: Tensor) -> Tensor:
        """The team's mean of a number."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def agree(self, classifier: Classifier) -> None:
        """Give every process the first one's BatchNorm statistics; the weights are equal already."""
        if self.size > 1:
            for buffer in classifier.buffers():
                dist.broadcast(buffer, 0)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all shares in order, on the CPU of every process."""
        if self.size == 1:
            return rows
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, rows.cpu())
        return torch.cat(parts)


ALONE: Final = Team()


def is_launched() -> bool:
    """Whether `torchrun` has started this process."""
    return dist.is_torchelastic_launched()


def relaunch(n_processes: int, arguments: Sequence[str], threads: int | None) -> NoReturn:
    """Become `torchrun` with this many processes on this machine, each running `python arguments…`.

    Args:
        n_processes: one for each GPU.
        arguments: a script and what follows it.
        threads: CPU threads of each process.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or 1))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    os.execv(sys.executable, [sys.executable, *launcher, *arguments])


@contextmanager
def joined(n_processes: int, device: torch.device) -> Iterator[Team]:
    """The team that `torchrun` has started this process in, or this process alone.

    Args:
        n_processes: what the settings ask for (`train.processes`); results are bit-identical for one number only, so
            no other may run.
        device: what the fit computes on; on `cuda` each process takes the GPU of its number.

    Raises:
        ConfigError: `torchrun` has started another number of processes, or there are fewer GPUs than processes.
    """
    size = int(os.environ["WORLD_SIZE"]) if is_launched() else 1
    if size != n_processes:
        raise ConfigError(
            f"params.yaml: train.processes must be the number of processes that train, got {n_processes} with "
            f"{size} running; set it to {size}, or start torchrun with --nproc-per-node {n_processes}"
        )
    if size == 1:
        yield ALONE
        return
    _end_with_launcher()
    if device.type == "cuda":
        _take_gpu(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _take_gpu(local_rank: int, n_local: int) -> None:
    if n_local > torch.cuda.device_count():
        raise ConfigError(
            f"params.yaml: train.processes must not be above the number of GPUs, got {n_local} with "
            f"{torch.cuda.device_count()}; lower it"
        )
    torch.cuda.set_device(local_rank)


def _end_with_launcher() -> None:
    """End when `torchrun` is gone (killed), so that no fit is written by one that nobody waits for."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            ended.wait(WATCH_S)
        os._exit(1)

    ended = threading.Event()
    threading.Thread(target=watch, daemon=True).start()
