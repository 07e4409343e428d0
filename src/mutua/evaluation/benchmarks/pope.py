"""POPE (arXiv 2305.10355): is an object in the picture, asked in three splits.

Published as lmms-lab/POPE, 9,000 questions; VLMEvalKit's file has a question of several splits once. The prompt is the
question as it stands in the file. The headline is F1, as in VLMEvalKit's `POPE_rating`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mutua.evaluation.aggregation import YesNoScore, pope
from mutua.evaluation.benchmark import Benchmark, Group, Layout, Question, Row
from mutua.evaluation.yes_no import verdict


def _question(row: Row, id: str, group: str = "") -> Question:
    text, answer = row["question"], row["answer"].strip().capitalize()
    return Question(id, text, text, answer, group=group, category=row["category"])


def _published(row: Row, number: int) -> Question:
    """The same question about the same picture is in several splits: an interval must not take it for several."""
    picture = row.get("image_source")
    return _question(row, f"{row['category']}/{row['question_id']}", f"{picture}: {row['question']}" if picture else "")


def _of_vlmevalkit(row: Row, number: int) -> Question:
    return _question(row, str(row["index"]))


def _figures(groups: Sequence[Group]) -> Mapping[str, float]:
    overall, splits = pope((j.question.category, j.question.answer, j.verdict.read) for group in groups for j in group)
    by_split = {
        f"{split} {name}": value for split in sorted(splits) for name, value in _percents(splits[split]).items()
    }
    return {**_percents(overall), **by_split}


def _percents(score: YesNoScore) -> dict[str, float]:
    names = ("F1", "accuracy", "precision", "recall", "yes-rate")
    shares = (score.f1, score.accuracy, score.precision, score.recall, score.yes_rate)
    return {name: 100 * share for name, share in zip(names, shares, strict=True)}


_COLUMNS = ("question", "answer", "category")

POPE = Benchmark(
    name="pope",
    title="POPE",
    size=9000,
    main=("F1",),
    layouts={
        "parquet": Layout(("data/test*.parquet", "test*.parquet"), ("question_id", *_COLUMNS), _published),
        "tsv": Layout(("POPE.tsv",), ("index", *_COLUMNS), _of_vlmevalkit),
    },
    verdict=verdict,
    figures=_figures,
    md5="c12f5acb142f2ef1f85a26ba2fbe41d5",
)
