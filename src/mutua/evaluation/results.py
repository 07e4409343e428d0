"""Answers to figures: verdicts, intervals, and what there is to know before a figure is believed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from mutua.evaluation.benchmark import Benchmark, Group, Judged, Protocol, Question, Verdict
from mutua.evaluation.intervals import Estimate, bootstrap
from mutua.evaluation.judge import PROMPTS, Judge
from mutua.evaluation.predictions import Predictions, key_of
from mutua.evaluation.questions import Questions
from mutua.evaluation.suite import PREDICTIONS, RECORDS, RESULTS, Settings, chosen
from mutua.folders import whole_file
from mutua.respond import Answer

_OPPOSITE = {"Yes": "No", "No": "Yes"}


@dataclass(frozen=True)
class Record:
    """A question, the reply to it, and the verdict."""

    question: Question
    reply: str
    is_cut: bool
    verdict: Verdict

    @property
    def judged(self) -> Judged:
        return Judged(self.question, self.verdict)

    def line(self) -> dict[str, Any]:
        return {**asdict(self.question), "reply": self.reply, "is_cut": self.is_cut, "verdict": asdict(self.verdict)}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Record:
        """Raises LookupError or TypeError where it is none."""
        asked = {name: line[name] for name in Question.__dataclass_fields__}
        return cls(Question(**asked), line["reply"], line["is_cut"], Verdict(**line["verdict"]))


@dataclass(frozen=True)
class Outcome:
    """What is known of one benchmark when all has been asked.

    Attributes:
        figures: by name, with 95 % intervals by the bootstrap over questions; nan where a verdict is missing.
        bounds: then, what the main ones are at least and at most.
        judge: its name, where it is, and the version of what it is asked; None where it is not asked.
        available: questions of the data, of which all were asked, or `limit`.
    """

    benchmark: Benchmark
    protocol: Protocol
    records: tuple[Record, ...]
    figures: Mapping[str, Estimate]
    bounds: Mapping[str, tuple[float, float]]
    layout: str
    files: tuple[str, ...]
    digest: str
    is_whole: bool | None
    judge: str | None
    available: int

    @property
    def cut(self) -> int:
        return sum(record.is_cut for record in self.records)

    @property
    def unread(self) -> int:
        """Replies in which neither the rules nor the judge found an answer; they are wrong."""
        return sum(record.verdict.read is None and record.verdict.score is not None for record in self.records)

    @property
    def unscored(self) -> Counter[str]:
        """Replies that have no verdict, by the reason."""
        return Counter(record.verdict.why for record in self.records if record.verdict.score is None)

    @property
    def unlike_the_paper(self) -> str:
        """Why a score cannot be held against the paper's; empty where nothing is known to be in the way."""
        if self.is_whole is False or len(self.records) < self.available:
            return "a part of the set"
        if self.is_whole is None:
            return "another file than VLMEvalKit's"
        return "" if self.protocol == self.benchmark.protocol else "by other rules"

    def summary(self) -> dict[str, Any]:
        """As plain JSON values; null for a figure that cannot be had."""
        return {
            "title": self.benchmark.title,
            "protocol": asdict(self.protocol),
            "judge": self.judge,
            "data": {"layout": self.layout, "files": self.files, "digest": self.digest, "is_whole": self.is_whole},
            "questions": len(self.records),
            "right": sum(record.verdict.score == 1 for record in self.records),
            "cut": self.cut,
            "unread": self.unread,
            "unscored": dict(sorted(self.unscored.items())),
            "main": list(self.benchmark.main),
            "figures": {name: _bounded(estimate) for name, estimate in self.figures.items()},
            "bounds": self.bounds,
        }


def _bounded(estimate: Estimate) -> dict[str, Any]:
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def score(
    questions: Questions,
    output: Path,
    settings: Settings,
    judge: Judge | None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """The verdicts on all answers, and the figures.

    Args:
        progress: called while a judge is asked, with (replies judged, replies in all).

    Raises:
        ValueError: a line of the answers is damaged, or a question has not been answered.
        FolderError: what the judge said cannot be written into its cache.
    """
    benchmark = questions.benchmark
    answers = Predictions(output / PREDICTIONS, benchmark.name).read()
    asked = [questions.all[place] for place in chosen(questions, settings.limit)]
    keys = [key_of(question, questions.protocol, questions.version) for question in asked]
    missing = [question.id for question, key in zip(asked, keys, strict=True) if key not in answers]
    if missing:
        raise ValueError(f"{benchmark.name}: {len(missing)} questions have no answer yet, {missing[0]!r} among them.")
    replies = [answers[key] for key in keys]
    asks_judge = judge if benchmark.judge is not None else None
    verdicts = _verdicts(benchmark, asked, replies, asks_judge, progress)
    records = tuple(
        Record(question, reply.text, reply.finish_reason == "length", verdict)
        for question, reply, verdict in zip(asked, replies, verdicts, strict=True)
    )
    return Outcome(
        benchmark,
        questions.protocol,
        records,
        figures_of(benchmark, records),
        bounds_of(benchmark, records),
        questions.layout,
        questions.files,
        questions.digest,
        questions.is_whole,
        None if asks_judge is None else f"{asks_judge.name} at {asks_judge.url}, prompts {PROMPTS}",
        len(questions.all),
    )


def _verdicts(
    benchmark: Benchmark,
    questions: Sequence[Question],
    replies: Sequence[Answer],
    judge: Judge | None,
    progress: Callable[[int, int], None] | None,
) -> list[Verdict]:
    """With a judge, which takes seconds a reply, as many at a time as it allows."""

    def verdict(asked: tuple[Question, Answer]) -> Verdict:
        return benchmark.verdict(asked[0], asked[1].text, judge)

    asked = list(zip(questions, replies, strict=True))
    if judge is None:
        return list(map(verdict, asked))
    verdicts: list[Verdict] = []
    with ThreadPool(judge.concurrency) as threads:  # its threads end with the process: Ctrl-C waits for no judge
        for one in threads.imap(verdict, asked):
            verdicts.append(one)
            if progress is not None:
                progress(len(verdicts), len(asked))
    return verdicts


def groups_of(records: Sequence[Record]) -> dict[str, list[Judged]]:
    """What counts together, in order of first appearance."""
    groups: dict[str, list[Judged]] = {}
    for record in records:
        groups.setdefault(record.question.group or record.question.id, []).append(record.judged)
    return groups


def figures_of(benchmark: Benchmark, records: Sequence[Record]) -> dict[str, Estimate]:
    """nan where a verdict is missing: the questions that have one are not like the others.

    (Without a judge, MathVista's rules read right answers and leave wrong ones unread: all that are read are right.)
    """
    groups = list(groups_of(records).values())
    if not groups or not all(map(benchmark.counts, groups)):
        return {name: Estimate(math.nan, -math.inf, math.inf, 0, "questions") for name in benchmark.main}
    return bootstrap(groups, benchmark.figures, stratum_of(benchmark))


def bounds_of(benchmark: Benchmark, records: Sequence[Record]) -> dict[str, tuple[float, float]]:
    """What the figures are at least and at most, where verdicts are missing and all others are right or wrong."""
    if benchmark.judge == "grades" or all(record.verdict.score is not None for record in records):
        return {}

    def figures(verdict: Callable[[Question], Verdict]) -> Mapping[str, float]:
        whole = [
            record if record.verdict.score is not None else replace(record, verdict=verdict(record.question))
            for record in records
        ]
        return benchmark.figures(list(groups_of(whole).values()))

    # A figure may count what is said and not only whether it is right, as F1 does.
    least = figures(lambda question: Verdict(_OPPOSITE.get(question.answer), 0.0))
    most = figures(lambda question: Verdict(question.answer, 1.0))
    return {name: (least[name], most[name]) for name in benchmark.main}


def stratum_of(benchmark: Benchmark) -> Any:
    def category(group: Group) -> str:
        return group[0].question.category

    return category if benchmark.strata else None


def versions() -> dict[str, str]:
    """Of what a figure may depend on."""
    return {name: version(name) for name in ("mutua", "torch", "transformers")}


def write_results(output: Path, settings: Settings, outcomes: Mapping[str, Outcome], judge: Judge | None) -> None:
    """Writes records/ and results.json.

    Raises:
        FolderError: one cannot be written.
    """
    for name, outcome in outcomes.items():
        lines = "".join(json.dumps(record.line(), ensure_ascii=False) + "\n" for record in outcome.records)
        _write(output / RECORDS / f"{name}.jsonl", lines)
    found = {name: outcome.summary() for name, outcome in outcomes.items()}
    asked = None if judge is None else judge.summary()
    whole = {"settings": asdict(settings), "versions": versions(), "judge": asked, "benchmarks": found}
    _write(output / RESULTS, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    with whole_file(path) as write:
        write(lambda partial: partial.write_text(text, encoding="utf-8", errors="backslashreplace"))
