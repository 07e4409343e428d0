"""Which samples make up the batch of a training step: a pure function of the seed and the step, with no state.

Nothing has to be saved to resume, and it does not matter which process asks for which step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b

from mutua.data.bulk import read_samples_or_errors
from mutua.data.sample import Sample

_ROUNDS = 6


@dataclass(frozen=True)
class Draw:
    """A sample of a batch: the place of its source, its index there, and how often all of that source came before."""

    place: int
    index: int
    epoch: int


class Mixture:
    """Batches from several sources, in proportion to their weights, each source shuffled anew every epoch.

    Slot `g` (counted over the whole run) goes to a source by its share alone, so after any number of slots every source
    is within a few samples of its exact proportion. The k-th draw from a source of n samples is item `k % n` of
    the permutation that belongs to epoch `k // n`: every item is seen once per epoch.

    Args:
        sources: map-style sources, none of them empty.
        weights: one positive number per source; only their proportions matter.
        seed: gives the order within the sources.
        batch_size: samples per step.
    """

    def __init__(
        self, sources: Sequence[Sequence[Sample]], weights: Sequence[float], seed: int, batch_size: int
    ) -> None:
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise ValueError(f"{len(sources)} sources with weights {list(weights)}: give each a positive weight")
        for place, source in enumerate(sources):
            if not len(source):
                raise ValueError(f"source {place} ({type(source).__name__}) is empty: give it samples or leave it out")
        self.sources, self.seed, self.batch_size = sources, seed, batch_size
        exact = [Fraction(str(weight)) for weight in weights]
        # The share of a source among itself and those after it; the last takes all that is left.
        self._shares = [weight / sum(exact[place:]) for place, weight in enumerate(exact)]

    def read(self, draws: Sequence[Draw], tolerated: tuple[type[Exception], ...]) -> list[Sample | Exception]:
        """The sample of each draw, in their order, or the error that reading it raised, if it is one of the tolerated.

        Of each source all at once, where it can.
        """
        samples = {}
        for place in {draw.place for draw in draws}:
            indices = [draw.index for draw in draws if draw.place == place]
            samples[place] = iter(read_samples_or_errors(self.sources[place], indices, tolerated))
        return [next(samples[draw.place]) for draw in draws]

    def draws(self, step: int) -> list[Draw]:
        """The batch of `step`, no sample of it read."""
        drawn = []
        for slot in range(step * self.batch_size, (step + 1) * self.batch_size):
            place, draw = self._draw(slot)
            size = len(self.sources[place])
            epoch, index = divmod(draw, size)
            drawn.append(Draw(place, shuffled(index, size, f"{self.seed}/{place}/{epoch}"), epoch))
        return drawn

    def _draw(self, slot: int) -> tuple[int, int]:
        """The source of a slot, and how many slots that source had before."""
        for place, share in enumerate(self._shares):
            before = slot * share.numerator // share.denominator
            if (slot + 1) * share.numerator // share.denominator > before:
                return place, before
            slot -= before  # the slots that went to this source are no business of the others
        raise AssertionError("the last share is 1")


def shuffled(index: int, size: int, key: str) -> int:
    """Where `index` goes in the permutation of `range(size)` that `key` names.

    A Feistel network over the next power of four, walked until it lands inside the range (Black and Rogaway, "Ciphers
    with Arbitrary Finite Domains", CT-RSA 2002): no table, whatever the size, and the same on every machine.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    digest = blake2b(key.encode(), digest_size=8 * _ROUNDS).digest()
    round_keys = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS)]
    while True:
        left, right = index >> half, index & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        index = left << half | right
        if index < size:
            return index


def _mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every bit of x moves all of the result."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 31
