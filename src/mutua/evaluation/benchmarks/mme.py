"""MME (arXiv 2306.13394): two yes/no questions about each image, in 14 categories.

Published as lmms-lab/MME. The prompt is the question as it stands there ("... Please answer yes or no."), as in
VLMEvalKit's vlmeval/dataset/image_yorn.py; the figures are its `MME_rating`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mutua.evaluation.aggregation import mme
from mutua.evaluation.benchmark import Benchmark, Group, Layout, Question, Row
from mutua.evaluation.yes_no import verdict


def _question(row: Row, image: str, id: str) -> Question:
    category = row["category"]
    return Question(id, row["question"], row["question"], row["answer"], group=f"{category}/{image}", category=category)


def _published(row: Row, number: int) -> Question:
    return _question(row, row["question_id"], f"{row['question_id']} {row['question']}")


def _of_vlmevalkit(row: Row, number: int) -> Question:
    return _question(row, row["image_path"], str(row["index"]))


def _figures(groups: Sequence[Group]) -> Mapping[str, float]:
    answers = (
        (judged.question.category, str(image), bool(judged.verdict.score))
        for image, group in enumerate(groups)
        for judged in group
    )
    found = mme(answers)
    totals = {category: score.total for category, score in found.categories.items()}
    return {"perception": found.perception, "cognition": found.cognition, **totals}


MME = Benchmark(
    name="mme",
    title="MME",
    size=2374,
    main=("perception", "cognition"),
    layouts={
        "parquet": Layout(
            ("**/test*.parquet",), ("question_id", "question", "answer", "category"), _published, ("image",)
        ),
        "tsv": Layout(("MME.tsv",), ("index", "question", "answer", "category", "image_path"), _of_vlmevalkit),
    },
    verdict=verdict,
    figures=_figures,
    strata=True,
    md5="b36b43c3f09801f5d368627fb92187c3",
)
