"""The figures of a suite as a table, as Markdown and as a plot: each with what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutua.evaluation.intervals import Estimate
from mutua.evaluation.judge import PROMPTS, Judge
from mutua.evaluation.published import MODELS, PUBLISHED
from mutua.evaluation.results import Outcome, Settings, versions
from mutua.figures import blank_figure
from mutua.folders import whole_file
from mutua.page import Page, Picture, Section, Table, to_markdown

if TYPE_CHECKING:
    from rich.table import Table as Printed

REPORT, PLOT = "report.md", "scores"
_HEADER = ("figure", "score", "95 % interval", "questions", "right", "not read", "cut", "unscored")
_HIGHEST = {"MME perception": 2000.0, "MME cognition": 800.0}  # all others are percents
_SOURCE = (
    "The paper's figures are from the README of https://github.com/sony/aki (Tables 1 and 2 of arXiv 2503.02597v2). "
    "AKI-4B is the released model; MMA, causal, dual-order and CCA share data, steps and parameters. A score can be "
    "held against them only where it is of the whole set, and the judge is the paper's."
)
_NOTES = (
    "Intervals are by the bootstrap over questions and speak of other questions of the same kind to this model, not of "
    "other training runs.",
    "Counts are of a whole benchmark, also where it has two figures. "
    "Not read: replies in which no answer was found; they count as wrong. Cut: replies that the limit on new tokens "
    "ended. Unscored: replies that wait for a judge, or whose judge failed. They are neither right nor wrong, so there "
    "is no score, but at most what it lies between; the same command asks the judge again.",
)


def table(outcomes: Mapping[str, Outcome]) -> Printed:
    """The main figures, for a terminal."""
    from rich.table import Table as Printed
    from rich.text import Text

    printed = Printed(_HEADER[0])
    for name in _HEADER[1:]:
        printed.add_column(name, justify="right")
    for row in _rows(outcomes):
        printed.add_row(*map(Text, row))
    return printed


def write_report(output: Path, settings: Settings, outcomes: Mapping[str, Outcome], judge: Judge | None) -> Path:
    """Writes report.md and scores.png. Returns the path of report.md.

    Raises:
        FolderError: one cannot be written.
        ImportError: matplotlib is missing.
    """
    picture = Picture(
        PLOT, "Main figures in percent of the highest there is, with 95 % intervals", lambda: _plot(outcomes)
    )
    facts = {name: "all" if value is None else str(value) for name, value in asdict(settings).items() if value != ""}
    sections = [
        Section("Scores", "results.json", warnings_of(outcomes), [picture], [Table("", _HEADER, _rows(outcomes))]),
        *_beside_the_paper(outcomes),
        *(_section(name, outcome) for name, outcome in outcomes.items()),
    ]
    page = Page(
        f"Evaluation of {settings.model}", sections, facts | versions() | {"judge": _describe_judge(judge)}, _NOTES
    )
    image, text = picture.image(), to_markdown(page, ".")
    with whole_file(output / f"{PLOT}.png") as write:
        write(lambda path: image.save(path, optimize=True))
    with whole_file(output / REPORT) as write:
        write(lambda path: path.write_text(text, encoding="utf-8", errors="backslashreplace"))
    return output / REPORT


def _describe_judge(judge: Judge | None) -> str:
    """The judge, and the versions of it that answered."""
    if judge is None:
        return "none"
    summary = judge.summary()
    answered = ", ".join(f"{version or 'no version told'}: {count:,}" for version, count in summary["versions"].items())
    return f"{summary['name']} at {summary['url']}, prompts {PROMPTS} ({answered or 'it never answered'})"


def main_figures(outcomes: Mapping[str, Outcome]) -> dict[str, tuple[Outcome, Estimate]]:
    """The figures of the paper's table, by their full names."""
    return {
        f"{outcome.benchmark.title} {name}": (outcome, outcome.figures[name])
        for outcome in outcomes.values()
        for name in outcome.benchmark.main
    }


def shown(number: float) -> str:
    return f"{number:.1f}" if math.isfinite(number) else "-"


def interval(estimate: Estimate) -> str:
    return f"{shown(estimate.low)} to {shown(estimate.high)}" if estimate.is_bounded else "-"


def _rows(outcomes: Mapping[str, Outcome]) -> list[list[str]]:
    rows = []
    for name, (outcome, estimate) in main_figures(outcomes).items():
        right = sum(record.verdict.score == 1 for record in outcome.records)
        counts = (len(outcome.records), right, outcome.unread, outcome.cut, outcome.unscored.total())
        graded = outcome.benchmark.judge == "grades"  # where nothing is right or wrong
        told = ["-" if graded and place == 1 else f"{count:,}" for place, count in enumerate(counts)]
        bounds = outcome.bounds.get(name.removeprefix(f"{outcome.benchmark.title} "))
        value = f"{shown(bounds[0])} to {shown(bounds[1])}" if bounds else shown(estimate.value)
        rows.append([name, value, interval(estimate), *told])
    return rows


def _beside_the_paper(outcomes: Mapping[str, Outcome]) -> list[Section]:
    unlike = {name: outcome.unlike_the_paper for name, (outcome, _) in main_figures(outcomes).items()}
    rows = [
        [
            f"{row[0]} ({unlike[row[0]]}: not to be compared)" if unlike[row[0]] else row[0],
            row[1],
            *(shown(PUBLISHED[row[0]][model]) for model in MODELS),
        ]
        for row in _rows(outcomes)
        if row[0] in PUBLISHED
    ]
    if not rows:
        return []
    return [Section("Beside the paper", "results.json", [_SOURCE], (), [Table("", ("figure", "score", *MODELS), rows)])]


def warnings_of(outcomes: Mapping[str, Outcome]) -> list[str]:
    """What must be known before a score is compared with another."""
    told = []
    for outcome in outcomes.values():
        title, asked = outcome.benchmark.title, len(outcome.records)
        for why, count in sorted(outcome.unscored.items()):
            told.append(f"{title}: {count:,} of {asked:,} replies are unscored: {why.rstrip('.')}.")
        for name, estimate in outcome.figures.items():
            if name in outcome.benchmark.main and math.isnan(estimate.value) and not outcome.unscored:
                told.append(f"{title} {name}: no question of it was asked.")
        if asked < outcome.available:
            told.append(f"{title}: {asked:,} of its {outcome.available:,} questions were asked (--limit).")
        if outcome.is_whole is False:
            told.append(f"{title}: the data are not the whole set, which has {outcome.benchmark.size:,} questions.")
        if outcome.is_whole is None:
            told.append(
                f"{title}: {outcome.files[0]} is not the file of VLMEvalKit of March 2025, by its MD5: nobody knows "
                "whether it is the whole set."
            )
    return told


def _section(name: str, outcome: Outcome) -> Section:
    benchmark, protocol = outcome.benchmark, outcome.protocol
    judge = {
        None: "no judge is asked",
        "grades": f"graded by {outcome.judge or 'nobody: no judge was given'}",
        "reads": f"what the rules cannot read is read by {outcome.judge or 'nobody: no judge was given'}",
    }[benchmark.judge]
    sentences = [
        f"Protocol: {protocol.name}, greedy, {protocol.max_new_tokens} new tokens; {judge}.",
        f"Data: {', '.join(outcome.files) or 'none needed'} ({outcome.layout}), questions {outcome.digest}.",
        f"Nothing was read in {outcome.unread:,} of {len(outcome.records):,} replies "
        f"({outcome.unread / len(outcome.records):.1%}).",
    ]
    rows = [[figure, shown(estimate.value), interval(estimate)] for figure, estimate in outcome.figures.items()]
    return Section(benchmark.title, f"records/{name}.jsonl", sentences, (), [Table("", _HEADER[:3], rows)])


def _plot(outcomes: Mapping[str, Outcome]) -> Any:
    found = {name: estimate for name, (_, estimate) in main_figures(outcomes).items()}
    figure = blank_figure(8, 0.4 * len(found) + 1)
    axes = figure.subplots()
    for place, (name, estimate) in enumerate(reversed(found.items())):
        scale = 100 / _HIGHEST.get(name, 100.0)
        if not math.isfinite(estimate.value):
            axes.text(1, place, "unscored", va="center", color="0.4")
            continue
        axes.barh(place, scale * estimate.value, 0.7, color="C0")
        axes.text(
            1, place, shown(estimate.value), va="center", color="white" if scale * estimate.value > 15 else "black"
        )
        if estimate.is_bounded:
            ends = [[scale * (estimate.value - estimate.low)], [scale * (estimate.high - estimate.value)]]
            axes.errorbar(scale * estimate.value, place, xerr=ends, color="0.25", elinewidth=1, capsize=2)
    axes.set_yticks(range(len(found)), [*reversed(found)], parse_math=False)
    axes.set_xlim(0, 102)
    axes.set_xlabel("% of the highest score")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
