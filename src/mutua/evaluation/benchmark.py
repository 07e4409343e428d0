"""What a benchmark is: rows to questions, replies to verdicts, verdicts to figures. One file of benchmarks/ each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from PIL import Image

from mutua.data.sample import Sample
from mutua.evaluation.judge import Judge

Row: TypeAlias = Mapping[str, Any]
"""A row of a table by its published columns, pictures left out; None where a cell is empty."""


@dataclass(frozen=True)
class Question:
    """A row, whichever layout it came in.

    Attributes:
        id: of the row; no other has it.
        prompt: what is asked. "<image 2>" in it is the place of the second picture; without such marks all pictures
            come first.
        text: the question by itself, without options and instructions, as a judge is told it.
        answer: the expected one, or what a judge compares with.
        choices: the wording of each option by its capital letter.
        group: questions that only count together (a pair of MME, the rotations of MMBench) have one; else the id.
        category: the kind of question, for figures by kind.
        more: whatever else the verdict needs.
    """

    id: str
    prompt: str
    text: str
    answer: str
    choices: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    category: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    def conversation(self, pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        """The question as one user message."""
        texts = re.split(r"<image (\d)>", self.prompt)
        parts: list[dict[str, Any]] = []
        if len(texts) == 1:
            parts += ({"type": "image", "image": picture} for picture in pictures)
        for nth, text in enumerate(texts):
            if nth % 2:
                parts.append({"type": "image", "image": pictures[int(text) - 1]})
            elif text:
                parts.append({"type": "text", "text": text})
        return [{"role": "user", "content": parts}]

    @property
    def places(self) -> int:
        """How many pictures the marks in the prompt ask for, at least."""
        return max((int(mark) for mark in re.findall(r"<image (\d)>", self.prompt)), default=1)


@dataclass(frozen=True)
class Verdict:
    """What came of a reply.

    Attributes:
        read: what was read from it, such as a letter; None where nothing was.
        score: 0 to 1; None where a judge was needed and there is none, or it failed: then it counts nowhere.
        more: further scores, by name.
        why: why there is no score.
    """

    read: str | None
    score: float | None
    more: Mapping[str, float] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Judged:
    """A question and the verdict on the reply to it."""

    question: Question
    verdict: Verdict


Group: TypeAlias = Sequence[Judged]
"""What counts together, in the order of the table."""


@dataclass(frozen=True)
class Protocol:
    """By what rules a benchmark is asked and read. A figure without it means nothing."""

    name: str
    max_new_tokens: int


VLMEVALKIT = Protocol("VLMEvalKit, March 2025", 512)


@dataclass(frozen=True)
class Layout:
    """How a benchmark lies on the disk.

    Attributes:
        files: patterns in the folder of the benchmark (of "tsv", in that of all data, too); the first that finds any
            is taken.
        columns: those without which it is another file; `question` may look at others.
        pictures: the columns of pictures, of which the first is always filled.
        question: a row, and its number, to a question; None for a row that is no part of the benchmark.
        protocol: where it is asked by other rules than the benchmark's.
    """

    files: Sequence[str]
    columns: Sequence[str]
    question: Callable[[Row, int], Question | None]
    pictures: Sequence[str] = ("image",)
    protocol: Protocol | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: of the task, and of its folder.
        title: as the paper writes it.
        size: how many questions the whole set has, those left out (videos) not counted.
        main: which of the `figures` the paper's table has.
        layouts: "parquet" as it is published, "tsv" as VLMEvalKit has it; none where the questions are `samples`.
        verdict: on a reply. The judge is None where there is none.
        figures: of the questions whose verdict is there; the main ones first. nan where one cannot be had.
        strata: whether figures are sums over categories, which a bootstrap must leave as many questions.
        all_must_hit: whether a group is wrong as soon as one of its questions is.
        judge: what it is for: "grades" every reply, "reads" what the rules cannot; None where it is not asked.
        samples: opens questions that need no folder.
        md5: of VLMEvalKit's file of March 2025.
    """

    name: str
    title: str
    size: int
    main: Sequence[str]
    layouts: Mapping[Literal["parquet", "tsv"], Layout]
    verdict: Callable[[Question, str, Judge | None], Verdict]
    figures: Callable[[Sequence[Group]], Mapping[str, float]]
    protocol: Protocol = VLMEVALKIT
    strata: bool = False
    all_must_hit: bool = False
    judge: Literal["grades", "reads"] | None = "reads"
    samples: Callable[[], Sequence[Sample]] | None = None
    md5: str = ""

    def counts(self, group: Group) -> bool:
        """Whether the verdict on a group is there."""
        scores = [judged.verdict.score for judged in group]
        return None not in scores or (self.all_must_hit and 0 in scores)


def shares(groups: Sequence[Group]) -> dict[str, float]:
    """Mean scores in percent: the accuracy over all, then by category."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for group in groups:  # of a bootstrap, millions
        for judged in group:
            category = judged.question.category
            sums[category] = sums.get(category, 0.0) + (judged.verdict.score or 0.0)
            counts[category] = counts.get(category, 0) + 1
    if not counts:
        return {"accuracy": math.nan}
    by_category = {category: 100 * sums[category] / count for category, count in counts.items() if category}
    return {"accuracy": 100 * sum(sums.values()) / sum(counts.values()), **by_category}
