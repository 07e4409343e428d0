"""Jobs side by side: each a process of its own with one thread, as many at once as there are cores or GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_SAVE = 60  # a job that is told to stop saves what it has


@dataclass(frozen=True)
class Job:
    """A command of the library's, in a process of its own.

    Attributes:
        name: what reports call it.
        arguments: behind `python -m`.
        log: what it prints goes there.
    """

    name: str
    arguments: tuple[str, ...]
    log: Path


class JobError(ValueError):
    """Jobs failed; the message has the last lines of the first one, and where the others' are.

    Attributes:
        names: of the jobs that failed.
    """

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


def slots() -> int:
    """How many jobs run at once: one for each GPU, else one for each core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return torch.cuda.device_count() or len(os.sched_getaffinity(0))
    return torch.cuda.device_count() or os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], processes: int, watch: Callable[[Sequence[Job], int], None]) -> None:
    """Runs all jobs, in order of their start; where one fails the others go on.

    Args:
        watch: called twice a second with the jobs that are running and the number of those that are done.

    Raises:
        JobError: some failed.
        KeyboardInterrupt: after the running ones were told to stop, and have saved what they have.
    """
    waiting, done, failed = list(jobs), 0, []
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    try:
        while waiting or running:
            for slot in range(processes):
                if waiting and slot not in running:
                    job = waiting.pop(0)
                    running[slot] = (job, _start(job, slot))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            for slot, (job, process) in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[slot]
                    done += 1
                    if code:
                        failed.append(job)
            watch([job for job, _ in running.values()], done)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            try:
                process.wait(_SECONDS_TO_SAVE)
            except subprocess.TimeoutExpired:
                process.kill()
    if failed:
        tail = "\n".join(failed[0].log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        others = "".join(f"\nalso failed: {job.name} ({job.log})" for job in failed[1:])
        raise JobError(f"{failed[0].name} failed ({failed[0].log}):\n{tail}{others}", [job.name for job in failed])


def _start(job: Job, slot: int) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if devices := torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(devices)))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % devices]
    with job.log.open("ab") as log:
        # A group of its own: Ctrl-C on the terminal reaches this process, which then stops the jobs one by one.
        return subprocess.Popen(
            [sys.executable, "-m", *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
