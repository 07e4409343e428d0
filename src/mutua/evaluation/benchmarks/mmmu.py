"""MMMU, validation set (arXiv 2311.16502): college questions with up to seven pictures at their places in the text.

Published as MMMU/MMMU and lmms-lab/MMMU; VLMEvalKit's MMMU_DEV_VAL.tsv holds the development set too, which is left out
here. An open question is read as one of two options, the answer and any other (`MMMU_preproc`).
"""

from __future__ import annotations

from mutua.evaluation.benchmark import Benchmark, Layout, Question, Row, shares
from mutua.evaluation.extraction import open_question
from mutua.evaluation.multiple_choice import choices_of, lettered, listed, prompt, verdict


def _published(row: Row, number: int) -> Question:
    if row["question_type"] not in ("multiple-choice", "open"):
        raise ValueError(f"MMMU has no question_type {row['question_type']!r}: it has multiple-choice and open")
    choices = lettered(listed(row["options"])) if row["question_type"] == "multiple-choice" else {}
    return _question(row, row["id"], choices, row["id"].split("_", 1)[-1].rsplit("_", 1)[0])


def _of_vlmevalkit(row: Row, number: int) -> Question | None:
    if row["split"] != "validation":
        return None
    return _question(row, row["index"], choices_of(row, "ABCDEFGHI"), row.get("category") or "")


def _question(row: Row, id: object, choices: dict[str, str], subject: str) -> Question:
    answer, text = str(row["answer"]), row["question"]
    if choices:
        return Question(str(id), prompt(text, choices), text, answer, choices, category=subject)
    return Question(str(id), prompt(text, choices), text, "A", open_question(answer), category=subject)


MMMU = Benchmark(
    name="mmmu",
    title="MMMU val",
    size=900,
    main=("accuracy",),
    layouts={
        "parquet": Layout(
            ("**/validation*.parquet",),
            ("id", "question", "options", "answer", "question_type"),
            _published,
            tuple(f"image_{nth}" for nth in range(1, 8)),
        ),
        "tsv": Layout(("MMMU_DEV_VAL.tsv",), ("index", "question", "answer", "A", "split"), _of_vlmevalkit),
    },
    verdict=verdict,
    figures=shares,
    md5="585e8ad75e73f75dcad265dfd0417d64",
)
