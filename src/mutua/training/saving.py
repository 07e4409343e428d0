"""Checkpoints written in the background: a copy of what changes is made between two steps, and a thread writes it.

The processes of a run write together, so their threads have a line of their own to talk over (`World.apart`): what
they agree on never mixes with what the steps agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from mutua.world import World


class Saver:
    """Writes one thing after the other: at once, or in the background.

    Entered as a context, it leaves only when all is written.

    Args:
        in_background: whether training goes on meanwhile, which takes host memory for a copy of what is written. None:
            on a GPU; a CPU would write with the very cores that train.
        say: is told of what went wrong in the background when something else has ended the run.
    """

    def __init__(self, world: World, in_background: bool | None, say: Callable[[str], None] = print) -> None:
        on_gpu = world.device.type == "cuda"
        if in_background is None:
            in_background = on_gpu
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if in_background else None
        self._world = world.apart() if in_background else world
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=on_gpu,
                use_non_blocking_copy=on_gpu,
                use_shared_memory=False,
                use_async_staging=False,
            )
        )
        self._under_way: Future[None] | None = None
        self._say = say

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown()
        if kind is None:
            self.wait()
        elif self._under_way is not None and (other := self._under_way.exception()) is not None:
            self._say(f"The checkpoint that was being written failed, too: {other}")

    @property
    def has_failed(self) -> bool:
        """Whether `wait` would raise now."""
        work = self._under_way
        return work is not None and work.done() and work.exception() is not None

    def keep(self, *groups: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The tensors as they are now, for `save`: copies on the host where training goes on meanwhile.

        Waits for what was saved before, whose memory it takes. Raises what went wrong there.
        """
        self.wait()
        kept = [{name: tensor.detach() for name, tensor in tensors.items()} for tensors in groups]
        if self._thread is None:
            return kept
        return list(self._stager.stage(dict(enumerate(kept))).values())  # type: ignore[arg-type, union-attr]

    def save(self, write: Callable[[World], None]) -> None:
        """Calls `write` with the processes as they talk to each other there, once what was saved before is written.

        Raises:
            Exception: what went wrong before, or at once; what goes wrong later is for `wait`.
        """
        self.wait()
        if self._thread is None:
            write(self._world)
        else:
            self._under_way = self._thread.submit(write, self._world)

    def wait(self) -> None:
        """Until all is written. Raises what went wrong."""
        work, self._under_way = self._under_way, None
        if work is not None:
            work.result()
