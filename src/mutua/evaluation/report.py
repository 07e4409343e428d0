"""Several models side by side: a table for the terminal and a figure for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from mutua.evaluation.accuracy import Accuracy, Score

_OVERALL = "overall"


def table(results: Mapping[str, Accuracy], *, blind: Mapping[str, float] | None = None, title: str = "") -> Table:
    """Families down, models across, each accuracy with its 95 % interval.

    Args:
        results: by the name of the model.
        blind: by family, 0 to 1: what the best guesser scores that never sees the image (`mutua.evaluation.blind`).
    """
    out = Table("family", title=escape(title) or None)
    out.add_column("samples", justify="right")
    for model in results:
        out.add_column(escape(model), justify="right", overflow="fold")
    if blind is not None:
        out.add_column("blind guess", justify="right", style="dim")
    for family, scores in _rows(results).items():
        sizes = sorted({str(score.total) for score in scores if score is not None})
        cells = [escape(family), "/".join(sizes), *map(_cell, scores)]
        if blind is not None:
            cells.append(f"{blind[family]:.1%}" if family in blind else "")
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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "mutua[train]"') from error
    # Figure and canvas by hand: pyplot would keep global state and look for a display.
    drawing = Figure(figsize=(9, 3.4 * len(results) + 0.4), dpi=150, layout="constrained")
    FigureCanvasAgg(drawing)
    models = list(dict.fromkeys(model for by_model in results.values() for model in by_model))
    handles: dict[str, Any] = {}
    panels = drawing.subplots(len(results), squeeze=False)[:, 0]
    for axes, (source, by_model) in zip(panels, results.items(), strict=True):
        handles |= _draw_bars(axes, by_model, models)
        axes.set_title(source, parse_math=False)
        rows = list(_rows(by_model))
        for row, family in enumerate(rows):
            value = ((blind or {}).get(source) or {}).get(family)
            if value is not None:
                line = axes.hlines(value, row - 0.45, row + 0.45, colors="0.2", linestyles="dashed", lw=1)
                handles["blind guess"] = line
        axes.set_xticks(range(len(rows)), rows, parse_math=False)
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


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    low, high = score.interval
    return f"{score.accuracy:.1%} ({100 * low:.1f}-{100 * high:.1f})"
