"""MM-Vet (arXiv 2308.02490): open questions that need several abilities, graded from 0 to 1 by a judge.

Published as lmms-lab/MMVet; prompt and grading as in VLMEvalKit (vlmeval/dataset/utils/mmvet.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mutua.evaluation.aggregation import mm_vet
from mutua.evaluation.benchmark import Benchmark, Group, Layout, Question, Row, Verdict
from mutua.evaluation.judge import Judge, grade


def _published(row: Row, number: int) -> Question:
    return _question(row, row["question_id"], row["capability"])


def _of_vlmevalkit(row: Row, number: int) -> Question:
    return _question(row, row["index"], row["category"])


def _question(row: Row, id: object, capabilities: str) -> Question:
    return Question(str(id), row["question"], row["question"], row["answer"], category=capabilities)


def _verdict(question: Question, reply: str, judge: Judge | None) -> Verdict:
    if judge is None:
        return Verdict(reply, None, why="no judge was given to grade the reply")
    score, why = grade(judge, question.text, question.answer, reply)
    return Verdict(reply, score, why=why)


def _figures(groups: Sequence[Group]) -> Mapping[str, float]:
    grades = [(j.question.category, j.verdict.score or 0.0) for group in groups for j in group]
    return {"overall": float("nan"), **mm_vet(grades)}


MM_VET = Benchmark(
    name="mm_vet",
    title="MM-Vet",
    size=218,
    main=("overall",),
    layouts={
        "parquet": Layout(("**/test*.parquet",), ("question_id", "question", "answer", "capability"), _published),
        "tsv": Layout(("MMVet.tsv",), ("index", "question", "answer", "category"), _of_vlmevalkit),
    },
    verdict=_verdict,
    figures=_figures,
    judge="grades",
    md5="748aa6d4aa9d4de798306a63718455e3",
)
