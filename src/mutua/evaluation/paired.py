"""Two models on the same questions, one seed each: where one is right more often, and where no difference is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from mutua.evaluation import words
from mutua.evaluation.accuracy import Accuracy, Score
from mutua.evaluation.intervals import Estimate, paired_proportions

_OVERALL = "overall"


@dataclass(frozen=True)
class PairedRow:
    """A family: how often each is right, and the difference policy - baseline (-1 to 1) with its 95 % interval."""

    family: str
    policy: Score
    baseline: Score
    difference: Estimate


def paired_rows(policy: Accuracy, baseline: Accuracy) -> list[PairedRow]:
    """A row a family, in order of first appearance, then all questions; the interval is `paired_proportions`'.

    It speaks of other questions to these two models, not of other training runs.

    Raises:
        ValueError: they were not asked the same questions in the same order, or none.
    """
    asked, other = ([(record.id, record.question) for record in one.records] for one in (policy, baseline))
    if not asked or asked != other:
        place = next((i for i, pair in enumerate(zip(asked, other, strict=False)) if pair[0] != pair[1]), None)
        where = f"{len(asked):,} and {len(other):,} questions" if place is None else f"they part at question {place:,}"
        raise ValueError(f"the two models were not asked the same questions ({where}): evaluate both on one source.")
    pairs = list(zip(policy.records, baseline.records, strict=True))
    rows = []
    for family in [*policy.families, _OVERALL]:
        right = [
            (one.is_correct, two.is_correct)
            for one, two in pairs
            if family == _OVERALL or (one.family or "other") == family
        ]
        counts = [right.count(both) for both in ((True, True), (True, False), (False, True), (False, False))]
        total = len(right)
        ours, theirs = Score(counts[0] + counts[1], total), Score(counts[0] + counts[2], total)
        rows.append(PairedRow(family, ours, theirs, paired_proportions(*counts)))
    return rows


def paired_table(rows: Sequence[PairedRow], policy: str, baseline: str, *, title: str = "") -> Table:
    """Families down: both accuracies, the difference in points with its 95 % interval, and what may be said of it."""
    out = Table("family", title=Text(title, style="italic") if title else None)
    out.add_column("questions", justify="right")
    for name in (policy, baseline):
        out.add_column(Text(name), justify="right")
    out.add_column("difference in points (95 %)", justify="right")
    out.add_column("right more often")
    for row in rows:
        if row.family == _OVERALL:
            out.add_section()
        shares = (f"{score.accuracy:.1%}" for score in (row.policy, row.baseline))
        out.add_row(
            Text(row.family),
            f"{row.policy.total:,}",
            *shares,
            words.points(row.difference),
            Text(_who(row, policy, baseline), style="" if row.difference.excludes_zero else "dim"),
            style="bold" if row.family == _OVERALL else None,
        )
    return out


def _who(row: PairedRow, policy: str, baseline: str) -> str:
    word = words.verdict(row.difference)
    return {"more": policy, "less": baseline}.get(word, word)
