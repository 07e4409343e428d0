"""Two models on the same questions: who is right more often, and when that is not seen."""

from io import StringIO

import pytest
from rich.console import Console

from mutua.evaluation.accuracy import Accuracy, Record
from mutua.evaluation.intervals import paired_proportions
from mutua.evaluation.paired import paired_rows, paired_table


def model(**right: str) -> Accuracy:
    """`model(count="++-")`: two of three counts right."""
    return Accuracy(
        tuple(
            Record(f"{family}{i}", family, "?", "yes", "yes" if mark == "+" else "no")
            for family, marks in right.items()
            for i, mark in enumerate(marks)
        )
    )


def test_each_family_and_all_together():
    rows = paired_rows(model(a="+" * 30 + "-" * 10, b="+-+-"), model(a="-" * 20 + "+" * 20, b="-++-"))
    assert [row.family for row in rows] == ["a", "b", "overall"]
    assert rows[0].difference == paired_proportions(10, 20, 10, 0)
    assert rows[1].difference == paired_proportions(1, 1, 1, 1)
    assert rows[2].difference == paired_proportions(11, 21, 11, 1)
    assert (rows[0].policy.correct, rows[0].baseline.correct, rows[0].policy.total) == (30, 20, 40)


def test_the_table_says_who_and_says_when_nothing_is_seen():
    rows = paired_rows(model(a="+" * 40, b="++-", c="++--"), model(a="-" * 40, b="--+", c="+-+-"))
    out = StringIO()
    Console(file=out, width=140).print(paired_table(rows, "mma", "[x]", title="a [y]"))
    lines = {line.split("│")[1].strip(): line for line in out.getvalue().splitlines() if line.startswith("│")}
    assert list(lines) == ["a", "b", "c", "overall"]
    assert lines["a"].split("│")[6].strip() == "mma"
    assert "+100.0 (" in lines["a"]
    assert "no difference seen" in lines["b"]
    assert lines["c"].split("│")[6].strip() == "tie"
    assert "[x]" in out.getvalue()
    assert "a [y]" in out.getvalue()


def test_the_other_one_may_be_better():
    (row, _) = paired_rows(model(a="-" * 40), model(a="+" * 40))
    assert row.difference.high < 0
    out = StringIO()
    Console(file=out, width=140).print(paired_table([row], "mma", "causal"))
    assert out.getvalue().count("causal") == 2


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (model(a="++"), model(a="+"), "2 and 1 questions"),
        (model(a="++"), model(b="++"), "part at question 0"),
        (Accuracy(()), Accuracy(()), "0 and 0 questions"),
    ],
)
def test_only_the_same_questions_can_be_paired(one, other, said):
    with pytest.raises(ValueError, match=said):
        paired_rows(one, other)
