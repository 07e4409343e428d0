"""A number with what bounds it, and the bootstrap, which bounds figures that are no plain share."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

RESAMPLES = 1000

T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, and the `count` of `unit`s ("seeds", "backbones", "questions") it rests on.

    Where nothing bounds it, as with one seed, the interval is everything: -inf to inf.
    """

    value: float
    low: float
    high: float
    count: int
    unit: str = "seeds"

    @property
    def excludes_zero(self) -> bool:
        """True if the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def bootstrap(
    questions: Sequence[T],
    figures: Callable[[Sequence[T]], Mapping[str, float]],
    stratum: Callable[[T], Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Figures of the questions, each with its percentile interval (Efron, Annals of Statistics 7, 1979).

    The interval speaks of other questions of the same kind to the same model, not of other training runs. It is the
    same in every run: the draws come from `seed`. Where all draws agree, nothing is bounded.

    Args:
        questions: what is drawn as a whole: one question in all the forms in which it was asked.
        figures: by name; nan where a figure cannot be had.
        stratum: questions of one stratum are drawn for one another, so that each keeps its number.
    """
    exact = figures(questions)
    groups: dict[Hashable, list[int]] = {}
    for place, question in enumerate(questions):
        groups.setdefault(stratum(question) if stratum else None, []).append(place)
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in exact}
    for _ in range(resamples):
        places = [group[draw] for group in groups.values() for draw in random.integers(0, len(group), len(group))]
        for name, value in figures([questions[place] for place in places]).items():
            if name in drawn and math.isfinite(value):
                drawn[name].append(value)
    return {name: _estimate(value, drawn[name], len(questions)) for name, value in exact.items()}


def _estimate(value: float, drawn: Sequence[float], count: int) -> Estimate:
    if not drawn or min(drawn) == max(drawn):  # all right, all wrong, one question of a kind: it knows no other
        return Estimate(value, -math.inf, math.inf, count, "questions")
    low, high = np.percentile(drawn, (2.5, 97.5)).tolist()
    return Estimate(value, low, high, count, "questions")
