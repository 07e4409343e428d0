"""The peak of a process is its own."""

from __future__ import annotations

import subprocess
import sys

from mutua.memory import peak_memory

MIB = 2**20


def test_what_was_held_once_counts_and_what_a_parent_held_does_not() -> None:
    before = peak_memory()
    held = bytearray(b"1") * (before + 100 * MIB)
    del held
    assert peak_memory() >= before + 100 * MIB
    code = "from mutua.memory import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 * MIB < int(child.stdout) < peak_memory() - 100 * MIB
