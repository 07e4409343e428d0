"""MMBench, English development set (arXiv 2307.06281): multiple choice, asked with its options in all rotations.

Published as lmms-lab/MMBench (folder en) and in VLMEvalKit as MMBench_DEV_EN.tsv. Index i + n * 1,000,000 is question i
with its options rotated n times; a question is right where all its rotations are (`mcq_circular_eval`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mutua.evaluation.aggregation import ROTATION, by_group, circular
from mutua.evaluation.benchmark import Benchmark, Group, Layout, Question, Row
from mutua.evaluation.multiple_choice import choices_of, prompt, verdict


def _question(row: Row, number: int) -> Question:
    row = {name: None if value == "nan" else value for name, value in row.items()}  # as the hub's tables write empty
    choices = choices_of(row, "ABCD")
    index = int(row["index"])
    return Question(
        id=str(index),
        prompt=prompt(row["question"], choices, row.get("hint")),
        text=row["question"],
        answer=row["answer"],
        choices=choices,
        group=str(index % ROTATION),
        category=row["category"],
    )


def _figures(groups: Sequence[Group]) -> Mapping[str, float]:
    hits = []
    for group in groups:
        # Under its own index, so that an error names it; a bootstrap may have drawn the same question twice.
        (hit,) = circular({int(judged.question.id): _hit(judged.verdict.score) for judged in group}).values()
        hits += [(name, bool(hit)) for name in ("accuracy", group[0].question.category)]
    return {name: 100 * score.accuracy for name, score in by_group(hits).items()}


def _hit(score: float | None) -> bool | None:
    return None if score is None else score == 1


_FILES = ("en/dev*.parquet", "data/dev*.parquet", "dev*.parquet")
_COLUMNS = ("index", "question", "answer", "A", "B", "category")

MMBENCH = Benchmark(
    name="mmbench",
    title="MMBench dev en",
    size=4329,
    main=("accuracy",),
    layouts={
        "parquet": Layout(_FILES, _COLUMNS, _question),
        "tsv": Layout(("MMBench_DEV_EN.tsv",), _COLUMNS, _question),
    },
    verdict=verdict,
    figures=_figures,
    all_must_hit=True,
    md5="b6caf1133a01c6bb705cf753bb527ed8",
)
