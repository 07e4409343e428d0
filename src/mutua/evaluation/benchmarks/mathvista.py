"""MathVista, testmini (arXiv 2310.02255): mathematics in pictures, multiple choice and free form.

Published as AI4Math/MathVista. The prompt is the set's own `query`, hint included, as in VLMEvalKit's file. A reply
that is no answer by the rules is read by the judge (vlmeval/dataset/utils/mathvista.py).
"""

from __future__ import annotations

from string import ascii_uppercase

from mutua.evaluation.benchmark import Benchmark, Layout, Question, Row, Verdict, shares
from mutua.evaluation.extraction import free_form, option
from mutua.evaluation.judge import Judge, judged_answer
from mutua.evaluation.multiple_choice import lettered, listed


def _published(row: Row, number: int) -> Question:
    return _question(row, row["pid"], row["query"], row["choices"] or [])


def _of_vlmevalkit(row: Row, number: int) -> Question:
    return _question(row, row["index"], row["question"], listed(row["choices"] or "[]"))


def _question(row: Row, id: object, text: str, choices: list[str]) -> Question:
    answer = str(row["answer"])
    if row["question_type"] == "multi_choice":
        answer = ascii_uppercase[[str(choice) for choice in choices].index(answer)]
    else:
        free_form(answer, answer, row["answer_type"])  # a type that there is not is told now
    more = {"kind": row["answer_type"]}
    return Question(str(id), text, row["question"], answer, lettered(choices), category=row["question_type"], more=more)


def _verdict(question: Question, reply: str, judge: Judge | None) -> Verdict:
    read = _read(question, reply)
    if read is not None:
        return Verdict(read, float(read == question.answer))
    if judge is None:
        return Verdict(None, None, why="no judge was given to read the answer in the reply")
    found, why = judged_answer(judge, question.prompt, reply)
    if why:
        return Verdict(None, None, why=why)
    found = found or ""
    read = _read(question, found)
    is_answer = not question.choices and free_form(found, found, question.more["kind"])  # though not the right one
    return Verdict(read or (found if is_answer else None), float(read == question.answer))


def _read(question: Question, text: str) -> str | None:
    """What the rules read: a letter, or the answer itself where the text is that; None where they read nothing."""
    if question.choices:
        return option(text, question.choices)
    return question.answer if free_form(text, question.answer, question.more["kind"]) else None


_COLUMNS = ("question", "answer", "choices", "question_type", "answer_type")

MATHVISTA = Benchmark(
    name="mathvista",
    title="MathVista mini",
    size=1000,
    main=("accuracy",),
    layouts={
        "parquet": Layout(("**/testmini*.parquet",), (*_COLUMNS, "pid", "query"), _published, ("decoded_image",)),
        "tsv": Layout(("MathVista_MINI.tsv",), (*_COLUMNS, "index"), _of_vlmevalkit),
    },
    verdict=_verdict,
    figures=shares,
    md5="f199b98e178e5a2a20e7048f5dcb0464",
)
