"""Random numbers by name: each is a pure function of (key, item, place), so any items can be drawn together.

Shape suffixes: B items, and whatever shape one item needs behind it.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): its constants, and the step between two numbers of one stream.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Chance:
    """A stream of random numbers for each of some items; two calls never give the same ones.

    Args:
        key: names all streams, e.g. by seed, split and family.
        items_B: which of them.
    """

    def __init__(self, key: str, items_B: NDArray[np.int64]) -> None:
        digest = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")
        self._streams_B = _mix(items_B.astype(np.uint64) * _STEP + np.uint64(digest))
        self._place = 0

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """(B, *shape) numbers from 0 to below 1."""
        count = int(np.prod(shape, dtype=np.int64))
        places = np.arange(self._place + 1, self._place + 1 + count, dtype=np.uint64)
        self._place += count
        bits = _mix(self._streams_B[:, None] + places * _STEP)
        return ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(-1, *shape)

    def below(self, bound: int, *shape: int) -> NDArray[np.int64]:
        """(B, *shape) whole numbers from 0 to below `bound`."""
        return (self.uniform(*shape) * bound).astype(np.int64)

    def order(self, count: int) -> NDArray[np.int64]:
        """(B, count) permutations of 0 to below `count`."""
        return self.uniform(count).argsort(1)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return x ^ (x >> np.uint64(31))
