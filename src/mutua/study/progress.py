"""How far the runs of other processes are, by their logs, and a line about it every so often."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SECONDS_BETWEEN_LINES = 20.0


class Lines:
    """Says a line, unless it has just said one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said = say, time.monotonic()

    def tell(self, line: Callable[[], str]) -> None:
        if time.monotonic() - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self._say(line())


def read_lines(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON Lines file, which another process may be writing; none where there is no file yet."""
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.is_file() else []
    return [json.loads(line) for line in lines]


def steps_done(folder: Path) -> int:
    """Optimizer steps of an arm, over its stages."""
    return sum(lines[-1]["step"] for log in folder.glob("stage-*/log.jsonl") if (lines := read_lines(log)))


def duration(seconds: float) -> str:
    """In words, rounded: "40 s", "7 min", "2 h 05 min"."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if seconds >= 90 else f"{max(1, round(seconds))} s"
