"""Numbers in words: estimates with their intervals, and what may be said of a difference."""

from __future__ import annotations

from collections.abc import Iterable

from mutua.evaluation.intervals import Estimate

NOTHING_SEEN = "no difference seen"


def verdict(difference: Estimate) -> str:
    """ "more" or "less" where the interval leaves out 0; "tie" for none at all; else that no difference is seen."""
    if difference.excludes_zero:
        return "more" if difference.value > 0 else "less"
    return "tie" if difference.value == 0 and difference.is_bounded else NOTHING_SEEN


def accuracy(estimate: Estimate) -> str:
    """ "97.7 % (96.7 to 98.4)"; a share, 0 to 1, as percentages."""
    return f"{100 * estimate.value:.1f} %{_between(estimate, 100, '.1f')}"


def points(estimate: Estimate) -> str:
    """ "+5.2 (3.1 to 7.3)"; a difference of shares (-1 to 1) in percentage points."""
    return f"{100 * estimate.value:+.1f}{_between(estimate, 100, '+.1f')}"


def percents(estimate: Estimate) -> str:
    """ "+6.2 % (3.1 to 9.3)"; what is in percent already."""
    return f"{estimate.value:+.1f} %{_between(estimate, 1, '+.1f')}"


def judged_gain(gain: Estimate) -> str:
    """What may be said of a relative gain."""
    if not gain.is_bounded:
        return "which has no interval"
    return {"more": "a gain", "less": "a loss"}.get(verdict(gain), NOTHING_SEEN)


def counted(count: int, unit: str) -> str:
    """ "5 seeds", "1 seed"."""
    return f"{count:,} {unit.removesuffix('s') if count == 1 else unit}"


def compared(who: str, than: str, found: Iterable[tuple[str, Estimate]]) -> str:
    """A sentence on differences of accuracy, each with its place: where more, where less, where none is seen."""
    parts: dict[str, list[str]] = {}
    over: dict[str, None] = {}
    for place, estimate in found:
        parts.setdefault(_seen(estimate), []).append(f"{place} {points(estimate)}")
        over[counted(estimate.count, estimate.unit)] = None
    clauses = (f"{word}: {', '.join(places)}" for word, places in parts.items())
    return f"{who} against {than}, in points over {' or '.join(over)}: {'; '.join(clauses)}."


def _seen(difference: Estimate) -> str:
    """What is seen, over several seeds; or of the two models of one seed, by an interval over the questions."""
    if not difference.is_bounded:
        return "no interval"
    said = {"more": "right more often", "less": "right less often"}
    word = said.get(verdict(difference), verdict(difference))
    return word if difference.unit != "questions" else f"one seed, these two models: {word}"


def _between(estimate: Estimate, scale: float, digits: str) -> str:
    if not estimate.is_bounded:
        return ""
    return f" ({scale * estimate.low:{digits}} to {scale * estimate.high:{digits}})"
