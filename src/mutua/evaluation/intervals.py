"""A number with what bounds it: means, paired differences, and the bootstrap for figures that are no plain share."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mutua.evaluation.accuracy import Score

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


def student_t_quantile(probability: float, degrees: int) -> float:
    """The t that Student's distribution with `degrees` of freedom stays below with this probability.

    By bisection of its distribution function, which is a finite sum for whole degrees of freedom
    (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4).

    Raises:
        ValueError: the probability is not between 0 and 1, or there is no degree of freedom.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability {probability}: must lie between 0 and 1.")
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom: Student's t needs at least 1 (two values).")
    inside = abs(2 * probability - 1)  # of -t to t
    low, high = 0.0, 1.0
    while _within(high, degrees) < inside:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < inside else (low, middle)
    return math.copysign((low + high) / 2, probability - 0.5)


def _within(t: float, degrees: int) -> float:
    """The probability that Student's t lies between -t and t."""
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total = (cosine, 0.0) if degrees % 2 else (1.0, 0.0)
    for step in range(2 + degrees % 2, degrees + 1, 2):  # 1, 1/2 cos^2, 1*3 / (2*4) cos^4, ... (2/3 cos^3, ...)
        total += term
        term *= (step - 1) / step * cosine * cosine
    return 2 / math.pi * (angle + sine * total) if degrees % 2 else sine * total


def mean_over(values: Sequence[float], unit: str = "seeds") -> Estimate:
    """The mean with Student's interval: mean +- t * s / sqrt(n), t for n - 1 degrees of freedom (Student 1908).

    It speaks of other seeds on the same test questions. With two values it is wide (t = 12.7), with one it has no end.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    if not len(values) or not all(map(math.isfinite, values)):
        raise ValueError(f"values {list(values)}: a mean needs at least one, and all of them finite.")
    count, mean = len(values), math.fsum(values) / len(values)
    if count == 1:
        return Estimate(mean, -math.inf, math.inf, 1, unit)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    half = student_t_quantile(0.975, count - 1) * error
    return Estimate(mean, mean - half, mean + half, count, unit)


def paired_proportions(both_right: int, only_policy: int, only_baseline: int, both_wrong: int) -> Estimate:
    """The difference policy - baseline of two accuracies on the same questions (-1 to 1), with its interval.

    Newcombe's method 10 (Statistics in Medicine 17, 1998, pages 2635-2650): Wilson's intervals of the two, put together
    with the correlation phi of the answers (continuity-corrected). It holds for few questions and near 0 and 1 too.
    It speaks of other questions to these two models, not of other seeds.

    Raises:
        ValueError: a count is negative, or all are 0.
    """
    counts = (both_right, only_policy, only_baseline, both_wrong)
    total = sum(counts)
    if min(counts) < 0 or not total:
        raise ValueError(f"counts {counts}: none may be negative, and there must be a question.")
    policy, baseline = both_right + only_policy, both_right + only_baseline
    difference = (only_policy - only_baseline) / total
    down_1, up_1 = (abs(policy / total - bound) for bound in Score(policy, total).interval)
    down_2, up_2 = (abs(baseline / total - bound) for bound in Score(baseline, total).interval)
    margins = policy * (total - policy) * baseline * (total - baseline)
    excess = both_right * both_wrong - only_policy * only_baseline
    phi = (max(excess - total / 2, 0) if excess > 0 else excess) / math.sqrt(margins) if margins else 0.0
    down = math.sqrt(max(0.0, down_1**2 - 2 * phi * down_1 * up_2 + up_2**2))
    up = math.sqrt(max(0.0, up_1**2 - 2 * phi * up_1 * down_2 + down_2**2))
    return Estimate(difference, max(-1.0, difference - down), min(1.0, difference + up), total, "questions")


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
