"""The processes of a run, which `torchrun` has started: who this one is, and what all of them agree on.

Every method that asks the others must be called by all of them, in one order. Alone, a process agrees with itself.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mutua.folders import whole_folder

T = TypeVar("T")


class EndedElsewhere(RuntimeError):
    """Another process of the run has failed, and tells why; this one has nothing to add."""


class World:
    """This process among those of the run.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        device: where it computes.
        group: the line that they talk over; None is the one that all else uses.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        device: torch.device | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.rank, self.size, self.group = rank, size, group
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def apart(self) -> World:
        """The same processes on a line of their own, host memory to host memory: for a thread of each."""
        group = dist.new_group(backend="gloo") if self.size > 1 else None
        return World(self.rank, self.size, self.device, group)

    def first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, which alone calls it, in all of them.

        Raises:
            EndedElsewhere: it failed there; there, the error itself.
        """
        if self.size == 1:
            return make()
        told: list[Any] = [None, False]
        try:
            if self.is_first:
                told = [make(), True]
        finally:
            dist.broadcast_object_list(told, src=0, group=self.group)
        if not told[1]:
            raise EndedElsewhere
        return told[0]  # type: ignore[no-any-return]

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return bool(self.largest(int(flag)))

    def largest(self, number: int) -> int:
        """Over all processes."""
        return int(self._reduced([number], dist.ReduceOp.MAX)[0])

    def sums(self, numbers: Sequence[int]) -> list[int]:
        """Number by number, over all processes."""
        return [int(number) for number in self._reduced(numbers, dist.ReduceOp.SUM)]

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, on this one's device; in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def lists(self, mine: list[T]) -> list[T]:
        """The lists of all processes, one after the other."""
        if self.size == 1:
            return mine
        found: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(found, mine, group=self.group)
        return [one for some in found for one in some]

    def _reduced(self, numbers: Sequence[int], how: Any) -> list[int]:
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(list(numbers), dtype=torch.int64)  # on the host, so that no device is waited for
        dist.all_reduce(tensor, how, group=self.group)
        return tensor.tolist()  # type: ignore[no-any-return]


def process_count() -> int:
    """How many processes `torchrun` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def find_world() -> World:
    """The processes that `torchrun` has started, or this one alone. They stay together until they end."""
    if process_count() == 1:
        return World()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return World(dist.get_rank(), dist.get_world_size(), device)


@contextmanager
def folder_of_all(world: World, target: Path) -> Iterator[Path]:
    """`whole_folder` for all processes to write into; when the block is over it is in its place, for all."""
    held = ExitStack()
    partial = world.first(lambda: held.enter_context(whole_folder(target)))
    try:
        yield partial
    except BaseException:
        held.__exit__(*sys.exc_info())
        raise
    world.first(held.close)
