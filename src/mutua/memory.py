"""The most memory that this process has held, and all that there is."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def peak_memory() -> int:
    """In bytes.

    Linux's own count of this program: `getrusage` counts there, too, what the parent held when it started this one.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def physical_memory() -> int:
    """The machine's, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
