"""How figures of the study look alike: a colour and a marker per policy, panels in a grid, one legend below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from mutua.evaluation.intervals import Estimate
from mutua.figures import blank_figure
from mutua.study.plan import DUAL_ORDER, IMAGE_FIRST, TWO_STAGES
from mutua.study.summary import Arm

# Okabe and Ito's colours, told apart by colour-blind readers too (jfly.uni-koeln.de/color); the markers help in grey.
_POLICIES = {
    "causal": ("#000000", "o"),
    "mma": ("#d55e00", "s"),
    "mma-bidirectional": ("#cc79a7", "D"),
    "prefix": ("#0072b2", "^"),
    "future-visual": ("#56b4e9", "<"),
    "future-text": ("#e69f00", ">"),
    "future": ("#009e73", "v"),
    "concentric": ("#8a8a8a", "P"),
}
_UNKNOWN = ("#8c6d1f", "X")
_ORDERS = {
    IMAGE_FIRST: ("-", "full"),
    "text-first": ("--", "none"),
    DUAL_ORDER: (":", "left"),
    TWO_STAGES: ("-.", "right"),
    f"{DUAL_ORDER}>{IMAGE_FIRST}": ("-.", "top"),
    f"{IMAGE_FIRST}>{DUAL_ORDER}": ("-.", "bottom"),
}

WIDTH, _DPI = 9.0, 120  # inches, pixels an inch: about as wide as the page that it is shown on
_LEGEND_COLUMNS = 5


def colour(arm: Arm) -> str:
    return _POLICIES.get(arm.policy, _UNKNOWN)[0]


def line_style(arm: Arm) -> dict[str, Any]:
    """Colour and marker by policy; dashes and filling by the order of image and question."""
    shade, marker = _POLICIES.get(arm.policy, _UNKNOWN)
    dashes, filling = _ORDERS.get(arm.order, _ORDERS[IMAGE_FIRST])
    return {"color": shade, "marker": marker, "linestyle": dashes, "fillstyle": filling, "markersize": 4.5, "lw": 1.4}


def panels(count: int, columns: int, height: float, **shared: Any) -> tuple[Any, list[Any]]:
    """A figure with `count` panels of `height` inches in at most so many columns; empty places are switched off."""
    rows = math.ceil(count / max(1, min(columns, count)))
    columns = math.ceil(count / rows)  # as even as can be: 2 and 2 rather than 3 and 1
    width = WIDTH if columns > 1 else 0.75 * WIDTH
    figure = blank_figure(width, rows * height + 0.5, dpi=_DPI)
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flatten())
    for unused in axes[count:]:
        unused.set_axis_off()
    for used in axes[:count]:
        used.spines[["top", "right"]].set_visible(False)
        used.tick_params(labelsize=8.5, labelbottom=True)
    return figure, axes[:count]


def title(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=9.5, loc="left", parse_math=False)


def legend(figure: Any, handles: dict[str, Any]) -> None:
    """One for all panels, below them, in rows of like length."""
    below = figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=math.ceil(len(handles) / math.ceil(len(handles) / _LEGEND_COLUMNS)),
        frameon=False,
        fontsize=9,
    )
    for text in below.get_texts():
        text.set_parse_math(False)


def dots(
    axes: Any,
    arm: Arm,
    at: Sequence[float],
    estimates: Sequence[Estimate],
    *,
    upright: bool = False,
    join: bool = False,
    hollow: bool = False,
) -> Any:
    """Dots with their intervals, lying at heights `at` (upright: at these x); no whisker where nothing bounds it."""
    values = [100 * estimate.value for estimate in estimates]
    arms = [
        [100 * (e.value - e.low) if e.is_bounded else 0 for e in estimates],
        [100 * (e.high - e.value) if e.is_bounded else 0 for e in estimates],
    ]
    style = line_style(arm) | ({} if join else {"linestyle": "none"}) | ({"markerfacecolor": "white"} if hollow else {})
    whiskers = {"elinewidth": 1.2, "capsize": 0 if not upright else 2}
    if upright:
        return axes.errorbar(at, values, yerr=arms, **style, **whiskers)
    return axes.errorbar(values, at, xerr=arms, **style, **whiskers)


def percent(axis: Any) -> None:
    axis.set_major_formatter(lambda value, _: f"{value:g} %")


def reach(estimates: Iterable[Estimate]) -> tuple[float, float]:
    """Limits, in points, that show 0, every value and every interval, but of a very wide one only so much that the
    values are still seen apart: the rest runs off the panel."""
    estimates = list(estimates)
    values = [100 * estimate.value for estimate in estimates]
    room = 3 * max(map(abs, values)) + 5
    ends = [100 * end for e in estimates if e.is_bounded for end in (e.low, e.high)]
    low, high = max(min(0, *values, *ends), -room), min(max(0, *values, *ends), room)
    margin = 0.06 * (high - low) + 0.5
    return low - margin, high + margin
