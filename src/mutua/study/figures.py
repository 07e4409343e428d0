"""Figures of a study: accuracy, differences, cost, how often a model says yes, and what its heads look at.

Each takes what `mutua.study.summary` makes of the rows, and is a matplotlib figure to save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from mutua.evaluation.intervals import Estimate
from mutua.study.results import BASELINE, CostRow, LookRow
from mutua.study.style import colour, dots, legend, line_style, panels, percent, reach, title
from mutua.study.summary import (
    Arm,
    Asked,
    Difference,
    Measured,
    Place,
    Questions,
    arms_in_order,
    grouped,
    in_words,
    place_labels,
)

_LINE, _GAP = 0.115, 0.16  # inches: of an arm in a row, and between rows
_NARROWEST = 20  # points that an axis of shares spans at least


def accuracy_figure(measured: Sequence[Measured], blind: Mapping[Asked, float] | None = None) -> Any:
    """A panel a place, a row a family, a dot an arm with its 95 % interval; dashed: a guess that sees no picture."""
    return _shares(measured, "accuracy", blind or {}, "blind guess")


def yes_figure(measured: Sequence[Measured], right: Mapping[Asked, float]) -> Any:
    """As `accuracy_figure`, of how often an arm says yes; dashed: how often that is right."""
    return _shares(measured, "answers that are yes", right, "right answers")


def _shares(measured: Sequence[Measured], label: str, dashed: Mapping[Asked, float], dashed_label: str) -> Any:
    arms = arms_in_order(one.arm for one in measured)
    rows = list(dict.fromkeys(one.questions for one in measured))
    places = place_labels(one.place for one in measured)
    figure, axes = panels(len(places), 3, _height(len(rows), len(arms)) + 0.7, sharex=True, sharey=True)
    handles: dict[str, Any] = {}
    for panel, (place, name) in zip(axes, places.items(), strict=True):
        here = [one for one in measured if one.place == place]
        for arm in arms:
            mine = [one for one in here if one.arm == arm]
            at = [rows.index(one.questions) + _offset(arm, arms) for one in mine]
            if mine:
                handles[arm.label] = dots(panel, arm, at, [one.estimate for one in mine])
        for (side, questions), share in dashed.items():
            if side == place.side and questions in rows:
                row = rows.index(questions)
                line = panel.vlines(100 * share, row - 0.45, row + 0.45, colors="0.35", linestyles="dashed", lw=1.2)
                handles[dashed_label] = line
        _rows(panel, [questions.label for questions in rows])
        title(panel, name)
        percent(panel.xaxis)
        panel.set_xlabel(label, fontsize=9)
        panel.xaxis.get_major_locator().set_params(nbins=5)
    low, high = axes[0].get_xlim()
    if high - low < _NARROWEST:  # or a tenth of a point would look like a gulf
        middle = (low + high) / 2
        axes[0].set_xlim(middle - _NARROWEST / 2, middle + _NARROWEST / 2)
    legend(figure, handles)
    return figure


def forest_figure(found: Sequence[Difference], against: str = BASELINE) -> Any:
    """A panel a family, a row a place and order, a dot a policy: how far it is from its baseline, in percentage points.

    Args:
        against: what the axis calls the baseline.
    """
    arms = arms_in_order(Arm(one.arm.policy) for one in found)
    families = list(dict.fromkeys(one.questions for one in found))
    rows = _places_and_orders(found)
    figure, axes = panels(len(families), 3, _height(len(rows), len(arms)) + 0.75, sharex=True, sharey=True)
    handles: dict[str, Any] = {}
    for panel, questions in zip(axes, families, strict=True):
        for arm in arms:
            mine = [one for one in found if one.arm.policy == arm.policy and one.questions == questions]
            at = [list(rows).index((one.place, one.arm.order)) + _offset(arm, arms) for one in mine]
            if mine:
                handles[arm.label] = dots(panel, arm, at, [one.estimate for one in mine])
        panel.axvline(0, color="0.35", lw=1, zorder=0)
        _rows(panel, list(rows.values()))
        title(panel, questions.label)
        panel.set_xlabel(f"points more than {against}", fontsize=9)
    axes[0].set_xlim(*reach(one.estimate for one in found))
    legend(figure, handles)
    return figure


def _places_and_orders(found: Sequence[Difference]) -> dict[tuple[Place, str], str]:
    """The rows of differences, with their labels: the place, or the order too where there are several."""
    orders = list(dict.fromkeys(one.arm.order for one in found))
    return {
        (place, order): name if len(orders) == 1 else f"{name}, {in_words(order)}"
        for place, name in place_labels(one.place for one in found).items()
        for order in orders
    }


def seeds_figure(found: Sequence[tuple[Place, Questions, int, Estimate]], arm: Arm) -> Any:
    """A panel a family, a row a place, a dot a seed (the first on top) with its interval over questions.

    A hollow dot: its interval holds 0.
    """
    families = list(dict.fromkeys(questions for _, questions, _, _ in found))
    places = place_labels(place for place, _, _, _ in found)
    seeds = sorted({seed for _, _, seed, _ in found})
    figure, axes = panels(len(families), 3, _height(len(places), len(seeds)) + 0.75, sharex=True, sharey=True)
    for panel, questions in zip(axes, families, strict=True):
        for place, own, seed, estimate in found:
            if own == questions:
                at = list(places).index(place) + _offset(seed, seeds)
                dots(panel, arm, [at], [estimate], hollow=not estimate.excludes_zero)
        panel.axvline(0, color="0.35", lw=1, zorder=0)
        _rows(panel, list(places.values()))
        title(panel, questions.label)
        panel.set_xlabel("points more than causal", fontsize=9)
    axes[0].set_xlim(*reach(estimate for _, _, _, estimate in found))
    return figure


def cost_figure(rows: Sequence[CostRow]) -> Any:
    """A row of panels a place: step time, from the fastest seed to the slowest, and memory, as multiples of causal's
    medians. A far seed's line runs off its panel.

    Arms in a place without a causal arm are left out.
    """
    measures = {"step_ms": "step time", "peak_mib": "peak memory of the process"}
    by_place = grouped(rows, lambda row: Place(row.backbone, row.connector, row.layers, row.side, 0))
    by_place = {place: mine for place, mine in by_place.items() if any(row.policy == BASELINE for row in mine)}
    if not by_place:
        raise ValueError(f"{CostRow.FILE}: no arm is causal, so nothing can be relative to it.")
    names = place_labels(by_place)
    arms = arms_in_order(Arm(row.policy, row.order) for mine in by_place.values() for row in mine)
    figure, axes = panels(len(measures) * len(names), len(measures), 0.3 * len(arms) + 0.85, sharex=True, sharey=True)
    shown = [1.0]
    for place_index, (place, name) in enumerate(names.items()):
        mine = by_place[place]
        bases = {row.order: row for row in mine if row.policy == BASELINE}
        for panel, (measure, word) in zip(axes[len(measures) * place_index :], measures.items(), strict=False):
            for row in mine:
                base = getattr(bases.get(row.order, next(iter(bases.values()))), measure)
                arm, value = Arm(row.policy, row.order), getattr(row, measure)
                if not base or value is None:
                    continue
                ratio, at = value / base, arms.index(arm)
                shown.append(ratio)
                panel.plot([ratio], [at], **line_style(arm))
                if measure == "step_ms":
                    panel.hlines(at, row.fastest_ms / base, row.slowest_ms / base, colors=colour(arm), lw=1.2)
                panel.annotate(f"{ratio:.2f}", (ratio, at), (0, 4), textcoords="offset points", ha="center", size=8)
            panel.axvline(1, color="0.35", lw=1, zorder=0)
            _rows(panel, [arm.label for arm in arms])
            title(panel, f"{name}: {word}" if len(names) > 1 else word)
            panel.xaxis.get_major_locator().set_params(nbins=4)
            panel.set_xlabel("times causal's", fontsize=9)
    axes[0].set_xlim(min(shown) - 0.3, max(shown) + 0.3)
    return figure


def heads_figure(rows: Iterable[LookRow]) -> Any:
    """A row of panels a backbone, a panel a policy: one measure by layer (down) and head (across), mean over seeds."""
    rows = list(rows)
    setting_of = _settings(rows)
    cells = grouped((row for row in rows if row.head is not None), lambda row: (setting_of(row), Arm(row.policy)))
    settings = list(dict.fromkeys(setting for setting, _ in cells))
    arms = arms_in_order(arm for _, arm in cells)
    layers = sorted({row.layer or 0 for mine in cells.values() for row in mine})
    heads = sorted({row.head or 0 for mine in cells.values() for row in mine})
    columns = min(4, len(arms))
    shown = [(setting, arm) for setting in settings for arm in arms if (setting, arm) in cells]
    figure, axes = panels(len(shown), columns, 0.3 * len(layers) + 1.0)
    means = {
        key: {cell: fmean(r.value for r in there) for cell, there in grouped(mine, _cell).items()}
        for key, mine in cells.items()
    }
    largest = max((value for mean in means.values() for value in mean.values()), default=0) or 1.0
    picture = None
    for panel, (setting, arm) in zip(axes, shown, strict=True):
        mean = means[setting, arm]
        grid = [[mean.get((layer, head), float("nan")) for head in heads] for layer in layers]
        picture = panel.imshow(grid, cmap="cividis", vmin=0, vmax=largest, aspect="auto")
        title(panel, arm.label if len(settings) == 1 else f"{setting}: {arm.label}")
        panel.title.set_color(colour(arm))
        panel.set_xticks(range(len(heads)), [str(head) for head in heads])
        panel.set_yticks(range(len(layers)), [str(layer) for layer in layers])
        panel.set_xlabel("head", fontsize=9)
        panel.set_ylabel("layer", fontsize=9)
        if len(heads) * columns <= 40:
            for (layer, head), value in mean.items():
                at = heads.index(head), layers.index(layer)
                ink = "black" if value > 0.6 * largest else "white"
                panel.text(*at, f"{value:.2f}", ha="center", va="center", size=7.5, color=ink)
    figure.colorbar(picture, ax=axes, fraction=0.025, pad=0.02)
    return figure


def layers_figure(rows: Iterable[LookRow]) -> Any:
    """A panel a backbone: one measure by layer, a line a policy: mean over seeds, lowest and highest."""
    rows = list(rows)
    setting_of = _settings(rows)
    lines = grouped((row for row in rows if row.head is None), lambda row: (setting_of(row), Arm(row.policy)))
    settings = list(dict.fromkeys(setting for setting, _ in lines))
    figure, axes = panels(len(settings), 3, 2.4, sharex=True, sharey=True)
    handles: dict[str, Any] = {}
    for panel, setting in zip(axes, settings, strict=True):
        for arm in arms_in_order(arm for here, arm in lines if here == setting):
            by_layer = sorted(grouped(lines[setting, arm], lambda row: row.layer or 0).items())
            at = [layer for layer, _ in by_layer]
            values = [[row.value for row in there] for _, there in by_layer]
            (handles[arm.label],) = panel.plot(at, list(map(fmean, values)), **line_style(arm))
            panel.fill_between(at, list(map(min, values)), list(map(max, values)), color=colour(arm), alpha=0.15, lw=0)
        title(panel, setting)
        panel.set_xlabel("layer", fontsize=9)
        panel.xaxis.get_major_locator().set_params(integer=True)
    legend(figure, handles)
    return figure


def _settings(rows: Sequence[LookRow]) -> Callable[[LookRow], str]:
    """The backbone of a row, and its connector where there are several."""
    several = len({row.connector for row in rows}) > 1
    return lambda row: f"{row.backbone}, {row.connector}" if several else row.backbone


def _cell(row: LookRow) -> tuple[int, int]:
    return row.layer or 0, row.head or 0


def _height(rows: int, arms: int) -> float:
    return rows * (arms * _LINE + _GAP)


def _offset(one: Any, lines: Sequence[Any]) -> float:
    """Where in its row (of height 1) one of the lines lies: the first on top, where the y axis points down."""
    share = _LINE / (len(lines) * _LINE + _GAP)
    return (lines.index(one) - (len(lines) - 1) / 2) * share


def _rows(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    for row in range(1, len(labels)):
        axes.axhline(row - 0.5, color="0.9", lw=0.8, zorder=0)
