"""A console for work that goes on when nobody reads of it any more."""

from __future__ import annotations

import os
from contextlib import suppress

from rich.console import Console


class LastingConsole(Console):
    """Falls silent when its reader is gone, as the `tee` that the Ctrl-C of a run has ended, too.

    Rich's own would end the process there, whatever it is doing.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with suppress(OSError):  # a stream without a descriptor
            # What is left in the stream goes nowhere: the interpreter flushes it in the end, and would fail then.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self.file.fileno())
            finally:
                os.close(nowhere)
