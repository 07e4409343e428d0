"""Two processes of a test, which talk over gloo."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def one_of_two(rank: int, port: int) -> Iterator[None]:
    """Inside, this process is one of the group."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    yield
    dist.barrier()
    dist.destroy_process_group()


def run_two(worker: Callable[..., None], *arguments: Any, seconds: int) -> None:
    """Calls `worker(rank, *arguments)` in both, and fails where they have not ended after so many seconds."""
    context = mp.spawn(worker, arguments, nprocs=2, join=False)
    assert context is not None
    try:
        for _ in range(seconds // 5):
            if context.join(timeout=5):
                break
        else:
            pytest.fail("the processes wait for each other")
    finally:
        for process in context.processes:
            process.kill()
