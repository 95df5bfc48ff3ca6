"""Processes that work on one search together, as `torchrun` starts them.

Each works on its part of every batch; what is learned is averaged, so that weights and
architecture parameters stay the same on all of them. The first one alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from hwnas.errors import HwnasError

PATIENCE = timedelta(days=1)
"""How long the others wait while the first one measures a latency table."""


@dataclass(frozen=True)
class Ranks:
    """The processes of one search.

    Attributes:
        rank: of this process; 0 writes.
        size: how many there are.
        local_rank: among those on this machine.
        restarts: how often they were started again after one died.
        launch: names the launcher's process, the same at each start.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    restarts: int = 0
    launch: str = ""

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's share of a batch; equal on all when `size` divides it."""
        return batch[self.rank :: self.size]

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their means over all processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        _all_reduce(flat, dist.ReduceOp.SUM)
        flat /= self.size
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; the same answer in all."""
        if self.size == 1:
            return flag
        value = torch.tensor([float(flag)])
        _all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())

    def wait(self) -> None:
        """Return when all processes have come to this call."""
        self.any(False)

    def require_equal(self, tensors: Sequence[Tensor]) -> None:
        """Compare tensors over all processes, by a checksum.

        Raises:
            HwnasError: in all of them, when they differ.
        """
        if self.size == 1:
            return
        lowest = torch.stack([tensor.double().sum().cpu() for tensor in tensors])
        highest = lowest.clone()
        _all_reduce(lowest, dist.ReduceOp.MIN)
        _all_reduce(highest, dist.ReduceOp.MAX)
        if not torch.equal(lowest, highest):
            raise HwnasError(
                "the processes of the search no longer have the same weights",
                mend="give all of them the same configuration, data and versions, then `--resume`",
            )


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Connect the processes that `torchrun` started; without it, this process is alone."""
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    size = int(os.environ["WORLD_SIZE"]) if launched else 1
    if size == 1:
        yield ALONE
        return
    restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    launch = f"{os.environ['TORCHELASTIC_RUN_ID']} {os.getppid()}"
    store, rank, _ = next(rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        # The launcher keeps one store: the addresses in it may be those of processes that died.
        store=dist.PrefixStore(f"start {restarts}", store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    try:
        yield Ranks(rank, size, int(os.environ["LOCAL_RANK"]), restarts, launch)
    finally:
        dist.destroy_process_group()


def _all_reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
    """Combine a tensor in place.

    Raises:
        HwnasError: when another process is not there any more.
    """
    try:
        dist.all_reduce(tensor, op=operation)
    except RuntimeError as error:
        raise HwnasError(
            "another process of the search has ended", actual=str(error).splitlines()[0]
        ) from None
