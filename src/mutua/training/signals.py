"""Ctrl-C and SIGTERM as a request: the step in hand is finished and saved. A second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Inside this context `requested` turns true at the first SIGINT or SIGTERM.

    Python takes signals in the main thread only; anywhere else this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._interrupted = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self.requested = True
        # Not through the console: the signal may have come while it was drawing.
        with suppress(OSError):  # nobody may be reading: a `tee` is ended by the same Ctrl-C
            os.write(2, b"\nStopping after this step; Ctrl-C again stops at once, without saving.\n")


def detach_worker(worker: int) -> None:
    """For data workers: a signal to the whole process group (Ctrl-C is one) is for the trainer alone to act on.

    They leave the group rather than ignore signals: a worker deaf to SIGTERM would keep a failed run from ending.
    """
    os.setsid()
