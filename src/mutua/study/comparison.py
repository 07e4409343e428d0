"""Two runs of one seed each, drawn: how they learned, and where one is right more often on the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mutua.evaluation.paired import PairedRow
from mutua.figures import blank_figure
from mutua.study.curves import draw_curves
from mutua.study.statistics import Point
from mutua.study.style import WIDTH, dots, legend, reach, title
from mutua.study.summary import Arm


def comparison_figure(
    curves: Mapping[str, Sequence[Point]], compared: Mapping[str, Sequence[PairedRow]], *, policy: str, baseline: str
) -> Any:
    """Left, learning curves on the validation split; right, paired differences with 95 % intervals.

    Args:
        curves: by policy.
        compared: by what was compared, e.g. "just trained: grid" and "packaged: scenes".
        policy, baseline: which policies the differences are of; a hollow dot: no difference seen.

    Returns:
        A matplotlib figure, to save.
    """
    lines = sum(len(rows) + 1 for rows in compared.values())
    figure = blank_figure(WIDTH, max(3.4, 0.2 * lines + 1.1))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    legend(figure, draw_curves(left, {Arm(name): [curve] for name, curve in curves.items()}))
    title(left, "while training: accuracy on the validation split")
    at, labels = 0, []
    for heading, rows in compared.items():
        labels.append(heading)
        at += 1
        for row in rows:
            dots(right, Arm(policy), [at], [row.difference], hollow=not row.difference.excludes_zero)
            labels.append(row.family)
            at += 1
    right.axvline(0, color="0.35", lw=1, zorder=0)
    right.set_yticks(range(at), labels, parse_math=False)
    headings = {labels.index(heading) for heading in compared}
    for number, label in enumerate(right.get_yticklabels()):
        label.set_fontweight("bold" if number in headings else "normal")
    right.set_ylim(at - 0.4, -0.6)
    right.set_xlim(*reach(row.difference for rows in compared.values() for row in rows))
    right.tick_params(axis="y", length=0)
    right.set_xlabel("points, with 95 % intervals; hollow: no difference seen", fontsize=9)
    title(right, f"held-out questions: {policy} minus {baseline}")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
    return figure
