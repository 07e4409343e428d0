"""How far a command is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mutua.cli.common import err

SECONDS_BETWEEN_LINES = 30  # of progress, where there is no terminal to draw a bar on
SECONDS_OF_SPEED = 600  # from which the time left is told: a batch may take a minute, and two are needed


@contextmanager
def progress() -> Iterator[Callable[[str, str, int, int], None]]:
    """Takes (model, source, done, total), as `measure` gives them; an empty model is not shown."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    tasks: dict[str, TaskID] = {}
    printed = time.monotonic()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, speed_estimate_period=SECONDS_OF_SPEED) as bars:

        def show(model: str, source: str, done: int, total: int) -> None:
            nonlocal printed
            pair = f"{model} on {source}" if model else source
            if pair not in tasks:
                tasks[pair] = bars.add_task(pair, total=total)
            bars.update(tasks[pair], completed=done)
            if not err.is_terminal and time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                printed = time.monotonic()
                left = columns[-1].render(bars.tasks[tasks[pair]])
                err.print(f"{pair}: {done} of {total}, time left {left}")

        yield show
