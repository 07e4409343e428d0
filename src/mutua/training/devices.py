"""The kinds of device that a run can be planned for: what each holds and how fast it is, by its vendor's datasheet."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mutua.memory import physical_memory

CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """One device of a kind.

    Attributes:
        name: of the kind.
        memory: bytes.
        bf16, fp32: dense floating-point operations a second, in each. Not TF32, which PyTorch leaves off unless told.
        bandwidth: of its memory, bytes a second.
        link: to the other devices of a machine, bytes a second in each direction.
        source: of these numbers.
    """

    name: str
    memory: float
    bf16: float
    fp32: float
    bandwidth: float
    link: float
    source: str


_GIB, _TERA, _GIGA = 2**30, 1e12, 1e9

DEVICES: dict[str, Device] = {
    device.name.lower(): device
    for device in (
        Device("H100", 80 * _GIB, 989 * _TERA, 67 * _TERA, 3350 * _GIGA, 450 * _GIGA, "NVIDIA H100 datasheet, SXM"),
        Device("H200", 141 * _GIB, 989 * _TERA, 67 * _TERA, 4800 * _GIGA, 450 * _GIGA, "NVIDIA H200 datasheet, SXM"),
        Device("A100", 80 * _GIB, 312 * _TERA, 19.5 * _TERA, 2039 * _GIGA, 300 * _GIGA, "NVIDIA A100 datasheet, SXM"),
        Device(
            *("A100-40GB", 40 * _GIB, 312 * _TERA, 19.5 * _TERA, 1555 * _GIGA, 300 * _GIGA),
            "NVIDIA A100 datasheet, SXM",
        ),
        Device("L40S", 48 * _GIB, 362 * _TERA, 91.6 * _TERA, 864 * _GIGA, 32 * _GIGA, "NVIDIA L40S datasheet"),
        Device(
            *("RTX4090", 24 * _GIB, 165.2 * _TERA, 82.6 * _TERA, 1008 * _GIGA, 32 * _GIGA),
            "NVIDIA Ada GPU architecture whitepaper; bf16 with fp32 sums",
        ),
    )
}
"""By name in lower case. Memory is the datasheet's "GB", which are GiB but for what error correction takes."""


def find_devices(text: str) -> tuple[int, Device]:
    """How many of which: "8xH100", "H200", "cpu" (this machine's, measured).

    Raises:
        ValueError: it is written otherwise, or there is no such kind.
    """
    known = ", ".join([*(device.name for device in DEVICES.values()), CPU])
    found = re.fullmatch(r"(?:(\d+)x)?([a-z].*)", text.strip().lower().replace(" ", ""))
    if not found or (found[1] and int(found[1]) < 1):
        raise ValueError(f"--gpus {text!r}: write a number, an x and a kind, such as 8xH100; kinds: {known}.")
    count, name = int(found[1] or 1), found[2]
    if name == CPU:
        return count, this_cpu(count)
    if name not in DEVICES:
        raise ValueError(f"--gpus {text!r}: no kind {name!r}; there are {known}.")
    return count, DEVICES[name]


def this_cpu(processes: int) -> Device:
    """A share of this machine: its memory by what it says, its speed by a product and a copy, a tenth of a second."""
    memory = physical_memory() / processes
    bf16, fp32 = (2 * 512**3 / _seconds(_product(dtype)) / processes for dtype in (torch.bfloat16, torch.float32))
    numbers = torch.zeros(2**22)
    room = torch.zeros_like(numbers)
    bandwidth = 2 * numbers.nbytes / _seconds(lambda: room.copy_(numbers)) / processes
    return Device(CPU, memory, bf16, fp32, bandwidth, bandwidth, "this machine, measured now")


def _product(dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    matrix = torch.randn(512, 512).to(dtype)
    return lambda: matrix @ matrix


def _seconds(work: Callable[[], object]) -> float:
    """The least time of a few: what others do on the machine is no property of it."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
