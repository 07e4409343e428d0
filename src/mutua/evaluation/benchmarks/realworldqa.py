"""RealWorldQA (x.ai, 2024): questions about photographs, most of them with options inside the question.

Published as lmms-lab/RealWorldQA, whose questions end in an instruction of their own and are asked as they stand; in
VLMEvalKit's file the options have columns and it is multiple choice. Without options a reply is right that is the
answer but for case and a last full stop, as in lmms-eval.
"""

from __future__ import annotations

import re

from mutua.evaluation.benchmark import Benchmark, Layout, Protocol, Question, Row, Verdict, shares
from mutua.evaluation.judge import Judge
from mutua.evaluation.multiple_choice import choices_of, prompt
from mutua.evaluation.multiple_choice import verdict as by_option

_AS_PUBLISHED = Protocol("the published questions as they stand; without options, exact match as in lmms-eval", 512)
_OPTION = re.compile(r"^\s*([A-F])[.)] (.+)$", re.MULTILINE)


def _published(row: Row, number: int) -> Question:
    choices = {letter: wording.strip() for letter, wording in _OPTION.findall(row["question"])}
    text = _OPTION.split(row["question"], maxsplit=1)[0].strip()
    return Question(f"row {number}", row["question"], text, row["answer"], choices if row["answer"] in choices else {})


def _of_vlmevalkit(row: Row, number: int) -> Question:
    choices = choices_of(row, "ABCDEF")
    return Question(str(row["index"]), prompt(row["question"], choices), row["question"], row["answer"], choices)


def _verdict(question: Question, reply: str, judge: Judge | None) -> Verdict:
    if question.choices:
        return by_option(question, reply, judge)
    read, answer = (text.strip().casefold().rstrip(".") for text in (reply, question.answer))
    return Verdict(read, float(read == answer))


REALWORLDQA = Benchmark(
    name="realworldqa",
    title="RealWorldQA",
    size=765,
    main=("accuracy",),
    layouts={
        "parquet": Layout(("**/test*.parquet",), ("question", "answer"), _published, protocol=_AS_PUBLISHED),
        "tsv": Layout(("RealWorldQA.tsv",), ("index", "question", "answer"), _of_vlmevalkit),
    },
    verdict=_verdict,
    figures=shares,
    md5="4de008f55dc4fd008ca9e15321dc44b7",
)
