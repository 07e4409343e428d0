"""LLaVA-Bench in the wild (arXiv 2304.08485): open questions, graded by a judge beside the answer of GPT-4.

Published as lmms-lab/llava-bench-in-the-wild; prompt and grading as in VLMEvalKit
(vlmeval/dataset/utils/llavabench.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mutua.evaluation.aggregation import llava_bench
from mutua.evaluation.benchmark import Benchmark, Group, Judged, Layout, Question, Row, Verdict
from mutua.evaluation.judge import Judge, grade_pair


def _published(row: Row, number: int) -> Question:
    return _question(row, row["question_id"], row["gpt_answer"])


def _of_vlmevalkit(row: Row, number: int) -> Question:
    return _question(row, row["index"], row["gpt4_ans"])


def _question(row: Row, id: object, reference: str) -> Question:
    more = {"caption": row["caption"]}
    return Question(str(id), row["question"], row["question"], reference, category=row["category"], more=more)


def _verdict(question: Question, reply: str, judge: Judge | None) -> Verdict:
    if judge is None:
        return Verdict(reply, None, why="no judge was given to grade the reply")
    grades, why = grade_pair(judge, question.text, question.more["caption"], question.answer, reply)
    if grades is None:
        return Verdict(reply, None, why=why)
    reference, own = grades
    return Verdict(reply, own / 10, {"reference": reference / 10})


def _figures(groups: Sequence[Group]) -> Mapping[str, float]:
    judged = [judged for group in groups for judged in group]
    kinds = dict.fromkeys(("overall", *sorted({j.question.category for j in judged})))
    return {kind: llava_bench(_grades(j) for j in judged if kind in ("overall", j.question.category)) for kind in kinds}


def _grades(judged: Judged) -> tuple[float, float]:
    return 10 * judged.verdict.more["reference"], 10 * (judged.verdict.score or 0.0)


_COLUMNS = ("question", "category", "caption")

LLAVA_W = Benchmark(
    name="llava_w",
    title="LLaVA-Bench in the wild",
    size=60,
    main=("overall",),
    layouts={
        "parquet": Layout(("**/*.parquet",), ("question_id", *_COLUMNS, "gpt_answer"), _published),
        "tsv": Layout(("LLaVABench.tsv",), ("index", *_COLUMNS, "gpt4_ans"), _of_vlmevalkit),
    },
    verdict=_verdict,
    figures=_figures,
    judge="grades",
    md5="d382a093f749a697820d3dadd61c8428",
)
