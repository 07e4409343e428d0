"""Several models side by side: a table for the terminal and a figure for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mutua.evaluation.accuracy import Accuracy, Score
from mutua.evaluation.blind import blind_overall
from mutua.figures import blank_figure

_OVERALL = "overall"


def table(results: Mapping[str, Accuracy], *, blind: Mapping[str, float] | None = None, title: str = "") -> Table:
    """Families down, models across, each accuracy with its 95 % interval.

    Args:
        results: by the name of the model.
        blind: by family, 0 to 1: what the best guesser scores that never sees the image (`mutua.evaluation.blind`).
    """
    # As `Text`: a name with brackets is no markup, whichever console prints it.
    cut = ", ".join(f"{result.cut:,} of {model}" for model, result in results.items() if result.cut)
    out = Table(
        "family",
        title=Text(title, style="italic") if title else None,
        caption=Text(f"answers cut by the limit on new tokens, and so wrong: {cut}") if cut else None,
    )
    out.add_column("samples", justify="right")
    for model in results:
        out.add_column(Text(model), justify="right", overflow="fold")
    if blind is not None:
        out.add_column("blind guess", justify="right", style="dim")
    rows = _rows(results)
    guesses = _guesses(rows, blind)
    for family, scores in rows.items():
        sizes = sorted({str(score.total) for score in scores if score is not None})
        cells: list[str | Text] = [Text(family), "/".join(sizes), *map(_cell, scores)]
        if blind is not None:
            cells.append(f"{guesses[family]:.1%}" if family in guesses else "")
        if family == _OVERALL:
            out.add_section()
        out.add_row(*cells, style="bold" if family == _OVERALL else None)
    return out


def figure(
    path: str | Path,
    results: Mapping[str, Mapping[str, Accuracy]],
    *,
    blind: Mapping[str, Mapping[str, float] | None] | None = None,
) -> None:
    """Writes bar charts (PNG), one under the other: a group of bars per family, a bar per model with its 95 % interval.

    Args:
        path: of the picture.
        results: by the name of the source (a chart each), then by the name of the model.
        blind: by the name of the source, then by family: what a guesser reaches that never sees the image, drawn as
            dashed lines.
    """
    drawing = blank_figure(9, 3.4 * len(results) + 0.4)
    models = list(dict.fromkeys(model for by_model in results.values() for model in by_model))
    handles: dict[str, Any] = {}
    panels = drawing.subplots(len(results), squeeze=False)[:, 0]
    for axes, (source, by_model) in zip(panels, results.items(), strict=True):
        handles |= _draw_bars(axes, by_model, models)
        axes.set_title(source, parse_math=False)
        rows = _rows(by_model)
        guesses = _guesses(rows, (blind or {}).get(source))
        for row, family in enumerate(rows):
            if family in guesses:
                line = axes.hlines(guesses[family], row - 0.45, row + 0.45, colors="0.2", linestyles="dashed", lw=1)
                handles["blind guess"] = line
        axes.set_xticks(range(len(rows)), list(rows), parse_math=False)
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("accuracy")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
    legend = drawing.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    drawing.savefig(path, format="png")


def _draw_bars(axes: Any, by_model: Mapping[str, Accuracy], models: Sequence[str]) -> dict[str, Any]:
    """The bars of one chart, a model's in its colour; returns one set of bars per model, for the legend."""
    width = 0.8 / len(by_model)
    rows = list(_rows(by_model).values())
    handles = {}
    for column, model in enumerate(by_model):
        bars = [(row, scores[column]) for row, scores in enumerate(rows)]
        drawn = [(row, score.accuracy, *score.interval) for row, score in bars if score is not None]
        handles[model] = axes.bar(
            [row - 0.4 + (column + 0.5) * width for row, *_ in drawn],
            [value for _, value, *_ in drawn],
            0.92 * width,
            color=f"C{models.index(model)}",
            yerr=[[value - low for _, value, low, _ in drawn], [high - value for _, value, _, high in drawn]],
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "0.25"},
        )
    return handles


def _rows(results: Mapping[str, Accuracy]) -> dict[str, list[Score | None]]:
    """The scores of all models by family, in order of first appearance; the last row is overall."""
    if not results:
        raise ValueError("nothing to report: give at least one model's results")
    by_model = [result.families for result in results.values()]
    names = list(dict.fromkeys(family for families in by_model for family in families))
    rows: dict[str, list[Score | None]] = {name: [families.get(name) for families in by_model] for name in names}
    return {**rows, _OVERALL: [result.overall for result in results.values()]}


def _guesses(rows: Mapping[str, Sequence[Score | None]], blind: Mapping[str, float] | None) -> dict[str, float]:
    """What a blind guess scores in each row where that is known, the last one included."""
    asked = {family: max(score.total for score in scores if score is not None) for family, scores in rows.items()}
    del asked[_OVERALL]
    overall = blind_overall(blind or {}, asked)
    return {**(blind or {}), **({} if overall is None else {_OVERALL: overall})}


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    low, high = score.interval
    return f"{score.accuracy:.1%} ({100 * low:.1f}-{100 * high:.1f})"
