"""Figures with an axis of how much: learning curves against samples and against time, and sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mutua.study.results import PairRow, ScoreRow
from mutua.study.statistics import Point, mean_curve
from mutua.study.style import colour, dots, legend, line_style, panels, percent, reach, title
from mutua.study.summary import (
    ALL,
    Arm,
    Place,
    Questions,
    accuracies,
    arms_in_order,
    curves,
    differences,
    place_labels,
    questions_of,
)

# What a sweep changes, by the name of its block: the attribute of a place, and the words for its axis.
SWEEPS = {
    "depth": ("layers", "layers"),
    "image tokens": ("side", "cells a side of the picture"),
    "length": ("length", "samples of training"),
}
_A_ROW = 4
_BESIDE = 0.1  # steps of a sweep


def curves_figure(rows: Sequence[ScoreRow], *, by_time: bool = False) -> Any:
    """A panel a place and task: accuracy against samples, or against seconds of training."""
    tasks = [Questions(task) for task in dict.fromkeys(row.task for row in rows)]
    shown = [(questions, curves(rows, questions)) for questions in tasks]
    drawn = [
        (questions, place, name, found)
        for questions, found in shown
        for place, name in place_labels(place for place, _ in found).items()
    ]
    figure, axes = panels(len(drawn), 3, 2.4)
    handles: dict[str, Any] = {}
    for panel, (questions, place, name, found) in zip(axes, drawn, strict=True):
        handles |= draw_curves(panel, _arms(found, place), by_time=by_time)
        title(panel, name if len(tasks) == 1 else f"{name}: {questions.label}")
    legend(figure, handles)
    return figure


def family_curves_figure(rows: Sequence[ScoreRow]) -> Any:
    """A panel a place and family: accuracy against samples."""
    shown = [(questions, curves(rows, questions)) for questions in questions_of(rows) if questions.family != ALL]
    names = place_labels(place for _, found in shown for place, _ in found)
    drawn = [(place, questions, found) for place in names for questions, found in shown if _arms(found, place)]
    figure, axes = panels(len(drawn), _A_ROW if len(drawn) % _A_ROW == 0 else 3, 2.2)
    handles: dict[str, Any] = {}
    for panel, (place, questions, found) in zip(axes, drawn, strict=True):
        handles |= draw_curves(panel, _arms(found, place))
        title(panel, questions.label if len(names) == 1 else f"{names[place]}: {questions.label}")
    legend(figure, handles)
    return figure


def draw_curves(axes: Any, arms: Mapping[Arm, Sequence[Sequence[Point]]], *, by_time: bool = False) -> dict[str, Any]:
    """A line an arm, the mean over its seeds, and a band from the lowest seed to the highest; handles for a legend."""
    handles = {}
    for arm in arms_in_order(arms):
        mean = mean_curve(arms[arm])
        shared = {point.samples for point in mean}
        spread = [[point.accuracy for point in curve if point.samples in shared] for curve in arms[arm]]
        at = [point.seconds if by_time else point.samples for point in mean]
        (handles[arm.label],) = axes.plot(at, [100 * point.accuracy for point in mean], **line_style(arm))
        if len(spread) > 1:
            ends = [[100 * end(values) for values in zip(*spread, strict=True)] for end in (min, max)]
            axes.fill_between(at, *ends, color=colour(arm), alpha=0.15, lw=0)
    percent(axes.yaxis)
    axes.set_xlabel("seconds of training" if by_time else "samples", fontsize=9)
    if not by_time:
        axes.xaxis.set_major_formatter(thousands)
    axes.xaxis.get_major_locator().set_params(nbins=5)
    return handles


def sweep_figure(rows: Sequence[ScoreRow], pairs: Sequence[PairRow] = ()) -> Any:
    """A column a family: accuracy above, and the difference from causal below, along what the sweep changes.

    Args:
        rows: of one block, a key of `SWEEPS`, on the test split, of one backbone and connector.
    """
    attribute, words = SWEEPS[rows[0].block]
    measured, found = accuracies(rows), differences(rows, pairs)
    families = list(dict.fromkeys(one.questions for one in measured))
    columns = min(_A_ROW, len(families))
    figure, axes = panels(2 * -(-len(families) // columns) * columns, columns, 2.2)
    steps = sorted({getattr(one.place, attribute) for one in measured})
    handles: dict[str, Any] = {}
    for index, questions in enumerate(families):
        above = axes[2 * columns * (index // columns) + index % columns]
        below = axes[2 * columns * (index // columns) + columns + index % columns]
        for panel, estimates in ((above, measured), (below, found)):
            mine = [one for one in estimates if one.questions == questions]
            arms = arms_in_order(one.arm for one in mine)
            for number, arm in enumerate(arms):
                own = sorted((one for one in mine if one.arm == arm), key=lambda one: getattr(one.place, attribute))
                beside = _BESIDE * (number - (len(arms) - 1) / 2)  # or whiskers would hide each other
                at = [steps.index(getattr(one.place, attribute)) + beside for one in own]
                handle = dots(panel, arm, at, [one.estimate for one in own], upright=True, join=True)
                handles.setdefault(arm.label, handle)
            panel.set_xticks(range(len(steps)), [thousands(step) for step in steps])
            panel.set_xlim(-0.4, len(steps) - 0.6)
        title(above, questions.label)
        percent(above.yaxis)
        below.axhline(0, color="0.35", lw=1, zorder=0)
        own_differences = [one.estimate for one in found if one.questions == questions]
        if own_differences:
            below.set_ylim(*reach(own_differences))
        below.set_xlabel(words, fontsize=9)
        if index % columns == 0:
            below.set_ylabel("points more than causal", fontsize=9)
    for unused in range(len(families), -(-len(families) // columns) * columns):
        for row in range(2):
            axes[2 * columns * (unused // columns) + row * columns + unused % columns].set_axis_off()
    legend(figure, handles)
    return figure


def thousands(value: float, _: int | None = None) -> str:
    """A tick: 2,000,000 as 2M, 50,000 as 50k."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _arms(found: Mapping[tuple[Place, Arm], Mapping[int, Sequence[Point]]], place: Place) -> dict[Arm, Any]:
    return {arm: list(by_seed.values()) for (here, arm), by_seed in found.items() if here == place}
