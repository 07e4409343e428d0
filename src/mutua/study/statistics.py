"""What may be said of a difference: means, paired differences and learning curves, each with what it rests on.

Two things vary: the seed of a training run, and which questions happen to be asked. With several seeds the interval is
over seeds (`mean_over`); with one it can only be over questions (`paired_proportions`), and says nothing of other runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mutua.evaluation.accuracy import Score
from mutua.evaluation.intervals import Estimate

_MOST_FLIPPED = 40  # numbers: two halves of 2 ** 20 sums each


@dataclass(frozen=True)
class Point:
    """A point of a learning curve: trained on so many samples for so many seconds, right in this share (0 to 1)."""

    samples: float
    seconds: float
    accuracy: float


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


def paired_by_seed(policy: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """policy - baseline for every seed that both have, in order of the seed: same start, same data, same order.

    Raises:
        ValueError: they have no seed in common.
    """
    seeds = sorted(policy.keys() & baseline.keys())
    if not seeds:
        raise ValueError(f"seeds {sorted(policy)} and {sorted(baseline)}: none is in both, so nothing can be paired.")
    return [policy[seed] - baseline[seed] for seed in seeds]


def sign_flip_test(differences: Sequence[float]) -> float:
    """The two-sided p-value of "the differences are as likely one way as the other", exact.

    The share of all 2 ** n ways to flip signs whose mean is at least as far from 0 (Fisher, The Design of Experiments,
    1935, section 21). It is never below 2 / 2 ** n: 0.5 for 2 seeds, 0.0625 for 5.

    Raises:
        ValueError: there are no differences, or more than 40.
    """
    if not 1 <= len(differences) <= _MOST_FLIPPED:
        raise ValueError(f"{len(differences)} differences: the exact test takes 1 to {_MOST_FLIPPED}.")
    scale = math.fsum(map(abs, differences)) or 1.0
    observed = abs(math.fsum(differences)) - 1e-12 * scale  # a tie is a tie, whatever the order of adding
    half = len(differences) // 2
    left, right = _flipped(differences[:half]), np.sort(_flipped(differences[half:]))
    # Sums come in pairs of opposite sign, so what lies at or above is half of what lies as far out.
    above = int((len(right) - np.searchsorted(right, observed - left)).sum())
    return min(1.0, 2 * above / 2 ** len(differences))


def _flipped(values: Sequence[float]) -> NDArray[np.float64]:
    """The sums of `values` under all ways to flip their signs, (2 ** n)."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


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


def relative_gain(policy: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """The mean over tasks of (policy - baseline) / baseline, in percent, as arXiv 2503.02597 counts its +6.2 %.

    Args:
        policy, baseline: accuracy (any scale, the same in both) by task.

    Raises:
        ValueError: the tasks differ, there are none, or the baseline scores 0 in one.
    """
    if not policy or policy.keys() != baseline.keys():
        raise ValueError(
            f"tasks {sorted(policy)} and {sorted(baseline)}: a relative gain needs the same, at least one."
        )
    if zero := [task for task, value in baseline.items() if not value]:
        raise ValueError(f"{', '.join(zero)}: the baseline scores 0 there, and nothing is relative to that.")
    return 100 * math.fsum((policy[task] - baseline[task]) / baseline[task] for task in policy) / len(policy)


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean over curves (of seeds), at the numbers of samples where each of them was measured."""
    by_samples = [{point.samples: point for point in curve} for curve in curves]
    shared = sorted(set.intersection(*map(set, by_samples))) if by_samples else []

    def mean(values: Iterable[float]) -> float:
        return math.fsum(values) / len(by_samples)

    return [
        Point(x, mean(curve[x].seconds for curve in by_samples), mean(curve[x].accuracy for curve in by_samples))
        for x in shared
    ]


def reached(curve: Sequence[Point], accuracy: float) -> Point | None:
    """Where a curve first comes to an accuracy, on the line between two measured points; None if it never does.

    One lucky point is enough: take the mean over seeds, and validation sets that are large.
    """
    for before, after in zip((None, *curve), curve, strict=False):
        if after.accuracy >= accuracy:
            if before is None:
                return after
            part = (accuracy - before.accuracy) / (after.accuracy - before.accuracy)
            samples = before.samples + part * (after.samples - before.samples)
            return Point(samples, before.seconds + part * (after.seconds - before.seconds), accuracy)
    return None


def caught_up(policy: Sequence[Point], baseline: Sequence[Point], margin: float = 0.01) -> Point | None:
    """From where on the baseline is never again more than `margin` (0 to 1) less accurate; None if it is at the end.

    Only numbers of samples count at which both were measured. The point is the baseline's; it is the first of all where
    the baseline was never behind.
    """
    ahead = {point.samples: point.accuracy for point in policy}
    found = None
    for point in reversed([point for point in baseline if point.samples in ahead]):
        if ahead[point.samples] - point.accuracy > margin:
            break
        found = point
    return found
