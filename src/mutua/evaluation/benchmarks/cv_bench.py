"""CV-Bench 2D and 3D (arXiv 2406.16860): multiple choice about counts, places, depth and distance.

Published as nyu-visionx/CV-Bench. Asked and read by the paper's own script (github.com/sony/aki,
codes/open_flamingo/eval_cv_bench/eval.py): strict, a reply is right that is the letter and nothing else; the lenient
figures beside it read the reply as all other multiple choice is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mutua.evaluation.aggregation import cv_bench
from mutua.evaluation.benchmark import Benchmark, Group, Layout, Protocol, Question, Row, Verdict
from mutua.evaluation.extraction import option, strict_letter
from mutua.evaluation.judge import Judge
from mutua.evaluation.multiple_choice import choices_of, lettered


def _question(row: Row, id: str, choices: dict[str, str]) -> Question:
    options = "\n".join(f"{letter}. {wording}" for letter, wording in choices.items())
    text = f"Answer with the option's letter from the given choices directly. {row['question']}\nOptions:\n{options}\n"
    return Question(id, text, row["question"], row["answer"].strip("()"), choices, category=row["source"])


def _published(row: Row, number: int) -> Question:
    return _question(row, f"{row['type']}/{row['idx']}", lettered(row["choices"]))


def _of_vlmevalkit(row: Row, number: int) -> Question:
    return _question(row, f"{row['source']}/{row['index']}", choices_of(row, "ABCDEF"))


def _verdict(question: Question, reply: str, judge: Judge | None) -> Verdict:
    read = option(reply, question.choices)
    strict = strict_letter(reply, question.answer)
    return Verdict(read, float(strict), {"lenient": float(read == question.answer)})


def _figures(groups: Sequence[Group]) -> Mapping[str, float]:
    judged = [judged for group in groups for judged in group]
    strict = cv_bench((j.question.category, bool(j.verdict.score)) for j in judged)
    lenient = cv_bench((j.question.category, bool(j.verdict.more["lenient"])) for j in judged)
    shares = {"2D": strict.two_d, "3D": strict.three_d, "2D lenient": lenient.two_d, "3D lenient": lenient.three_d}
    return {name: 100 * share for name, share in shares.items()}


CV_BENCH = Benchmark(
    name="cv_bench",
    title="CV-Bench",
    size=2638,
    main=("2D", "3D"),
    layouts={
        "parquet": Layout(
            ("**/test*.parquet",), ("idx", "type", "question", "choices", "answer", "source"), _published
        ),
        "tsv": Layout(("CV-Bench-*.tsv",), ("index", "question", "A", "B", "answer", "source"), _of_vlmevalkit),
    },
    verdict=_verdict,
    figures=_figures,
    protocol=Protocol("the paper's script for CV-Bench", 256),
    strata=True,
    judge=None,
)
