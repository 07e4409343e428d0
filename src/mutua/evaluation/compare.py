"""Two evaluations of the same questions: paired differences, and the questions on which they differ.

Pairing takes out of the difference what both models find hard: its interval is narrower than two separate ones suggest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutua.evaluation.benchmark import Benchmark, Group
from mutua.evaluation.benchmarks import BENCHMARKS
from mutua.evaluation.intervals import Estimate, bootstrap
from mutua.evaluation.results import Record, groups_of, stratum_of
from mutua.evaluation.suite import RECORDS, RESULTS


@dataclass(frozen=True)
class Result:
    """An evaluation as it lies on the disk.

    Attributes:
        settings, benchmarks: as in results.json.
        records: by benchmark.
    """

    folder: Path
    settings: Mapping[str, Any]
    benchmarks: Mapping[str, Mapping[str, Any]]
    records: Mapping[str, Sequence[Record]]

    @property
    def name(self) -> str:
        policy = self.settings["policy"]
        return f"{self.settings['model']} ({policy})" if policy else str(self.settings["model"])


@dataclass(frozen=True)
class Pair:
    """One question, as both answered it."""

    first: Record
    second: Record

    @property
    def flipped(self) -> int:
        """1 where only the second one's score is better, -1 where only the first one's, else 0."""
        one, other = self.first.verdict.score, self.second.verdict.score
        if one is None or other is None or one == other:
            return 0
        return 1 if other > one else -1


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on one benchmark.

    Attributes:
        differences: second minus first, by figure, with the 95 % interval of the paired bootstrap over questions.
            nan where a verdict is missing in one of the two.
        unscored: how many are.
    """

    benchmark: Benchmark
    pairs: tuple[Pair, ...]
    first: Mapping[str, float]
    second: Mapping[str, float]
    differences: Mapping[str, Estimate]
    unscored: int

    def flips(self, direction: int) -> list[Pair]:
        return [pair for pair in self.pairs if pair.flipped == direction]


def read_result(folder: Path) -> Result:
    """What `mutua eval --suite` left in its folder.

    Raises:
        ValueError: there is no finished evaluation, or a file is damaged or cannot be read.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise ValueError(f"{folder}: there is no {RESULTS}: give the folder of a finished `mutua eval --suite`.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        records = {name: _records(folder / RECORDS / f"{name}.jsonl") for name in found["benchmarks"]}
        return Result(folder, found["settings"], found["benchmarks"], records)
    except PermissionError as error:
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror}): see to it that you may.") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{folder}: the evaluation is damaged ({error!r}): run its command again.") from error


def _records(path: Path) -> list[Record]:
    return [Record.from_line(json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def compare(first: Result, second: Result) -> dict[str, Comparison]:
    """By benchmark that both have.

    Raises:
        ValueError: they have none in common, or were asked other questions, by another protocol, judged otherwise.
    """
    names = [name for name in first.benchmarks if name in second.benchmarks]
    if not names:
        both = [", ".join(result.benchmarks) for result in (first, second)]
        raise ValueError(f"{first.folder} has {both[0]}, {second.folder} has {both[1]}: nothing can be compared.")
    return {name: _compared(name, first, second) for name in names}


def _compared(name: str, first: Result, second: Result) -> Comparison:
    one, other = first.benchmarks[name], second.benchmarks[name]
    for what in ("protocol", "judge"):
        if one[what] != other[what]:
            raise ValueError(
                f"{name}: {what} is {one[what]} in {first.folder} and {other[what]} in {second.folder}: figures of "
                "two kinds say nothing of the models."
            )
    if [record.question for record in first.records[name]] != [record.question for record in second.records[name]]:
        raise ValueError(
            f"{name}: {first.folder} and {second.folder} were asked other questions (data "
            f"{one['data']['digest']} and {other['data']['digest']}, limit {first.settings['limit']} and "
            f"{second.settings['limit']}): evaluate both on the same."
        )
    benchmark = BENCHMARKS[name]
    pairs = tuple(map(Pair, first.records[name], second.records[name]))
    groups = list(zip(*(groups_of(result.records[name]).values() for result in (first, second)), strict=True))
    unscored = sum(not all(map(benchmark.counts, both)) for both in groups)
    if unscored:
        none = dict.fromkeys(benchmark.main, math.nan)
        differences = {figure: Estimate(math.nan, -math.inf, math.inf, 0, "questions") for figure in none}
        return Comparison(benchmark, pairs, none, none, differences, unscored)
    exact = [benchmark.figures([both[nth] for both in groups]) for nth in (0, 1)]

    def drawn_differences(drawn: Sequence[Sequence[Group]]) -> dict[str, float]:
        ours, theirs = (benchmark.figures([both[nth] for both in drawn]) for nth in (0, 1))
        return {figure: theirs[figure] - ours[figure] for figure in ours if figure in theirs}

    stratum = stratum_of(benchmark)
    found = bootstrap(groups, drawn_differences, (lambda both: stratum(both[0])) if stratum else None)
    return Comparison(benchmark, pairs, exact[0], exact[1], found, 0)
