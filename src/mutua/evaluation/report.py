"""Several models side by side: a table for the terminal and a figure for the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from mutua.evaluation.accuracy import Accuracy, Score

_OVERALL = "overall"


def table(results: Mapping[str, Accuracy], *, blind: Mapping[str, float] | None = None, title: str = "") -> Table:
    """Families down, models across, each accuracy with its 95 % interval.

    Args:
        results: by the name of the model.
        blind: by family, 0 to 1: what the best guesser scores that never sees the image (`mutua.data.blind`).
    """
    out = Table("family", title=title or None)
    out.add_column("samples", justify="right")
    for model in results:
        out.add_column(model, justify="right")
    if blind is not None:
        out.add_column("blind guess", justify="right", style="dim")
    for family, scores in _rows(results).items():
        sizes = sorted({str(score.total) for score in scores if score is not None})
        cells = [family, "/".join(sizes), *map(_cell, scores)]
        if blind is not None:
            cells.append(f"{blind[family]:.1%}" if family in blind else "")
        if family == _OVERALL:
            out.add_section()
        out.add_row(*cells, style="bold" if family == _OVERALL else None)
    return out


def figure(
    path: str | Path, results: Mapping[str, Accuracy], *, blind: Mapping[str, float] | None = None, title: str = ""
) -> None:
    """Writes a bar chart (PNG): a group of bars per family, a bar per model with its 95 % interval.

    Where `blind` is given, a dashed line across the group shows what a guesser that never sees the image reaches.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "mutua[train]"') from error
    rows = _rows(results)
    width = 0.8 / len(results)
    # Figure and canvas by hand: pyplot would keep global state and look for a display.
    drawing = Figure(figsize=(max(6.0, 1.1 * len(rows) * (1 + len(results) / 4)), 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.add_subplot()
    for column, model in enumerate(results):
        for row, scores in enumerate(rows.values()):
            score = scores[column]
            if score is None:
                continue
            value, (low, high) = score.accuracy, score.interval
            bar = axes.bar(
                row - 0.4 + (column + 0.5) * width,
                value,
                0.92 * width,
                color=f"C{column}",
                yerr=[[value - low], [high - value]],
                error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "0.25"},
            )
            bar.set_label(model if row == next(r for r, s in enumerate(rows.values()) if s[column]) else "_")
    for row, family in enumerate(rows):
        if blind is not None and family in blind:
            label = "blind guess" if family == next(f for f in rows if f in blind) else "_"
            axes.hlines(blind[family], row - 0.45, row + 0.45, colors="0.2", linestyles="dashed", lw=1, label=label)
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title)
    drawing.legend(loc="outside lower center", ncols=len(results) + 1, frameon=False)
    drawing.savefig(path, format="png")


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
    return f"{score.accuracy:.1%} ({100 * low:.0f}-{100 * high:.0f})"
