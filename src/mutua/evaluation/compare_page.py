"""Two evaluations on one HTML page that needs no other file: differences, then the questions that flipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image

from mutua.data.sample import SampleError
from mutua.evaluation.accuracy import spread
from mutua.evaluation.compare import Comparison, Pair, Result
from mutua.evaluation.intervals import Estimate
from mutua.evaluation.questions import open_questions
from mutua.evaluation.suite_report import interval, shown
from mutua.page import Example, Page, Section, Strong, Table, to_html

if TYPE_CHECKING:
    from rich.table import Table as Printed

Pictures: TypeAlias = Callable[[str, str], Sequence[Image.Image]]
"""The pictures of a question, by benchmark and id."""

_NOTES = (
    "Differences are the second minus the first. Intervals are by the paired bootstrap over questions: they speak of "
    "other questions of the same kind to these two models, not of other training runs. One that leaves out 0 is bold. "
    "Nothing is corrected for the number of comparisons. The last two columns count replies.",
)

_HEADER = ("figure", "first", "second", "difference", "95 % interval", "second better", "first better")


def table(comparisons: Mapping[str, Comparison]) -> Printed:
    """The main figures, for a terminal."""
    from rich.table import Table as Printed
    from rich.text import Text

    printed = Printed(_HEADER[0])
    for name in _HEADER[1:]:
        printed.add_column(name, justify="right")
    for comparison in comparisons.values():
        for row in _rows(comparison, comparison.benchmark.main):
            printed.add_row(*(Text(cell, style="bold" if isinstance(cell, Strong) else "") for cell in row))
    return printed


def pictures_from(comparisons: Mapping[str, Comparison], data: Path | None) -> Pictures:
    """The pictures of the questions that flipped; none of benchmarks whose folder is not given.

    Raises:
        SampleError: the data are not there or wrong, or are not those that were asked.
    """
    opened = {
        name: open_questions(comparison.benchmark, data)
        for name, comparison in comparisons.items()
        if data is not None or comparison.benchmark.samples is not None
    }
    places = {name: {question.id: place for place, question in enumerate(one.all)} for name, one in opened.items()}
    for name, one in opened.items():
        for pair in comparisons[name].pairs:
            asked = pair.first.question
            if asked.id not in places[name] or one.all[places[name][asked.id]] != asked:
                raise SampleError(
                    f"{name}: question {asked.id!r} is another one in {data}: give the data that were asked."
                )

    def pictures(name: str, id: str) -> Sequence[Image.Image]:
        return opened[name].pictures(places[name][id]) if name in opened else ()

    return pictures


def page(first: Result, second: Result, comparisons: Mapping[str, Comparison], pictures: Pictures, show: int) -> str:
    """The page.

    Args:
        pictures: as `pictures_from` gives them.
        show: of the questions that flipped, so many of each benchmark and direction, spread evenly.
    """
    facts = {"first": f"{first.name}, {first.folder}", "second": f"{second.name}, {second.folder}"}
    summary = [row for comparison in comparisons.values() for row in _rows(comparison, comparison.benchmark.main)]
    sections = [Section("Scores", "both results.json", (), (), [Table("", _HEADER, summary)])]
    for name, comparison in comparisons.items():
        sections.append(_section(name, comparison, pictures, show))
    return to_html(Page(f"{first.name} and {second.name}", sections, facts, _NOTES), {})


def _rows(comparison: Comparison, figures: Sequence[str]) -> list[list[str]]:
    flips = [f"{len(comparison.flips(direction)):,}" for direction in (1, -1)]
    return [
        [f"{comparison.benchmark.title} {name}", *_difference(comparison, name), *flips]
        for name in figures
        if name in comparison.differences
    ]


def _difference(comparison: Comparison, name: str) -> list[str]:
    found: Estimate = comparison.differences[name]
    told = f"{found.value:+.1f}" if found.value == found.value else "-"
    difference = Strong(told) if found.excludes_zero else told
    return [shown(comparison.first[name]), shown(comparison.second[name]), difference, interval(found)]


def _section(name: str, comparison: Comparison, pictures: Pictures, show: int) -> Section:
    examples = []
    for direction, heading in ((1, "the second is better"), (-1, "the first is better")):
        flips = comparison.flips(direction)
        for place in spread(len(flips), show):
            pair = flips[place]
            id = pair.first.question.id
            examples.append(Example(f"{id}: {heading}", _said(pair, pictures(name, id))))
    sentences = []
    if comparison.unscored:
        sentences.append(
            f"{comparison.unscored:,} questions have no verdict in one of the two: there is no difference."
        )
    rows = [[figure, *_difference(comparison, figure)] for figure in comparison.differences]
    header = ("figure", "first", "second", "difference", "95 % interval")
    table = Table("all figures", header, rows, folded=True)
    return Section(comparison.benchmark.title, f"both records/{name}.jsonl", sentences, (), [table], examples)


def _said(pair: Pair, pictures: Sequence[Image.Image]) -> list[tuple[str, str | Image.Image]]:
    question = pair.first.question
    expected = question.choices.get(question.answer)
    answer = f"{question.answer}: {expected}" if expected else question.answer
    return [
        *(("shown", picture) for picture in pictures),
        ("asked", question.prompt),
        ("expected", answer),
        ("first", pair.first.reply),
        ("second", pair.second.reply),
    ]
