"""Tables of a study's report: accuracies and differences, places and arms down, families across."""

from __future__ import annotations

from collections.abc import Sequence

from mutua.evaluation import words
from mutua.evaluation.intervals import Estimate
from mutua.page import Strong, Table
from mutua.study.summary import Difference, Measured, arms_in_order, grouped, place_labels


def difference_tables(found: Sequence[Difference]) -> list[Table]:
    if not found:
        return []
    names = place_labels(one.place for one in found)
    families = list(dict.fromkeys(one.questions for one in found))
    lines, tests = [], []
    for (arm, baseline, place), mine in grouped(found, lambda one: (one.arm, one.baseline, one.place)).items():
        cells = {
            one.questions: words.points(one.estimate)
            if one.p is None
            else marked(words.points(one.estimate), one.estimate)
            for one in mine
        }
        lines.append((f"{arm.label} - {baseline.label}", names[place], *(cells.get(q, "-") for q in families)))
        tests += [
            (
                f"{arm.label} - {baseline.label}",
                names[place],
                one.questions.label,
                words.verdict(one.estimate) if one.estimate.is_bounded else "no interval",
                words.counted(one.estimate.count, one.estimate.unit),
                "-" if one.p is None else f"{one.p:.3g}",
            )
            for one in mine
        ]
    return [
        Table(
            "Differences in points, with 95 % intervals; strong where one over several seeds leaves out 0",
            ("difference", "where", *(questions.label for questions in families)),
            lines,
            words=2,
        ),
        Table(
            "What is seen, over how many seeds, and the p-value of the sign-flip test (at least 2 / 2^seeds)",
            ("difference", "where", "questions", "is right ... often", "over", "p"),
            tests,
            words=4,
            folded=True,
        ),
    ]


def accuracy_table(caption: str, measured: Sequence[Measured], folded: bool = False) -> Table:
    """Places and arms down, families across."""
    names = place_labels(one.place for one in measured)
    families = list(dict.fromkeys(one.questions for one in measured))
    lines = []
    for place, own in sorted(grouped(measured, lambda one: one.place).items()):
        for arm in arms_in_order(one.arm for one in own):
            mine = {one.questions: one.estimate for one in own if one.arm == arm}
            cells = (words.accuracy(mine[q]) if q in mine else "-" for q in families)
            rests = dict.fromkeys(words.counted(e.count, e.unit) for e in mine.values() if e.unit == "seeds")
            lines.append((names[place], arm.label, *cells, "/".join(rests) or "1 seed"))
    return Table(caption, ("where", "policy", *(q.label for q in families), "over"), lines, 2, folded)


def marked(text: str, estimate: Estimate) -> str:
    return Strong(text) if estimate.excludes_zero else text


def stem(name: str) -> str:
    """A file name's part: "image tokens" gives "image-tokens"."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())
