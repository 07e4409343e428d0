"""What may be said of the runs of a study: differences by seed, gains and learning curves.

Two things vary: the seed of a training run, and which questions happen to be asked. With several seeds the interval is
over seeds; with one it can only be over questions, and says nothing of other runs (`mutua.evaluation.intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mutua.evaluation.intervals import Estimate, mean_over

_MOST_FLIPPED = 40  # numbers: two halves of 2 ** 20 sums each


@dataclass(frozen=True)
class Point:
    """A point of a learning curve: trained on so many samples for so many seconds, right in this share (0 to 1)."""

    samples: float
    seconds: float
    accuracy: float


def paired_by_seed(policy: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """policy - baseline for every seed that both have, in order of the seed: same start, same data, same order.

    Raises:
        ValueError: they have no seed in common.
    """
    seeds = sorted(policy.keys() & baseline.keys())
    if not seeds:
        raise ValueError(f"seeds {sorted(policy)} and {sorted(baseline)}: none is in both, so nothing can be paired.")
    return [policy[seed] - baseline[seed] for seed in seeds]


def mean_of_few(values: Sequence[float], unit: str = "seeds") -> Estimate:
    """`mean_over`, for a handful of values: where all are one and the same, they say nothing of how far others would
    lie, and there is no interval; but for 0, a tie.

    Raises:
        ValueError: as `mean_over`.
    """
    mean = mean_over(values, unit)
    if mean.value != 0 and min(values) == max(values):
        return replace(mean, low=-math.inf, high=math.inf)
    return mean


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


def relative_gain(policy: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """The mean over tasks of (policy - baseline) / baseline, in percent, as arXiv 2503.02597 counts its +6.2 %.

    Args:
        policy, baseline: accuracy (any scale, the same in both) by task; a study's tasks are its families.

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
