"""SEED-Bench, its questions about single images (arXiv 2307.16125): multiple choice.

Published as lmms-lab/SEED-Bench, where videos are left out here, and in VLMEvalKit as SEEDBench_IMG.tsv.
"""

from __future__ import annotations

from mutua.evaluation.benchmark import Benchmark, Layout, Question, Row, shares
from mutua.evaluation.multiple_choice import choices_of, prompt, verdict


def _published(row: Row, number: int) -> Question | None:
    if row["data_type"] != "image":
        return None
    choices = choices_of({letter: row[f"choice_{letter.lower()}"] for letter in "ABCD"})
    kind = str(row.get("question_type_id") or "")
    return _question(row, row["question_id"], choices, kind and f"type {kind}")


def _of_vlmevalkit(row: Row, number: int) -> Question:
    choices = choices_of(row, "ABCD")
    return _question(row, row["index"], choices, row.get("category") or "")


def _question(row: Row, id: object, choices: dict[str, str], category: str) -> Question:
    text = row["question"]
    return Question(str(id), prompt(text, choices), text, row["answer"], choices, category=category)


_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")

SEED = Benchmark(
    name="seed",
    title="SEED-Bench image",
    size=14233,
    main=("accuracy",),
    layouts={
        "parquet": Layout(
            ("**/test*.parquet",), ("question_id", "question", "answer", "data_type", *_CHOICES), _published
        ),
        "tsv": Layout(
            ("SEEDBench_IMG.tsv",),
            ("index", "question", "answer", "A", "B", "C", "D"),
            _of_vlmevalkit,
        ),
    },
    verdict=verdict,
    figures=shares,
    md5="68017231464752261a2526d6ca3a10c0",
)
