"""The rows of `unlock_lora.py` for people: a table of accuracies, the gap and what of it is closed, a figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from mutua.evaluation import words
from mutua.evaluation.intervals import mean_over
from mutua.study.curves import thousands
from mutua.study.results import Row
from mutua.study.style import colour, legend, panels, percent, title
from mutua.study.summary import ALL, Arm

VALIDATION, TEST = "validation", "test"
CAUSAL, MMA = "causal", "mma"
UNTRAINED, ADAPTED, CONTROL, CONTINUED = "untrained", "lora-mma", "lora-causal", "mma-lora"
LOCKED = "-locked"  # behind the name of an arm: asked under causal attention

WORDS = {
    CAUSAL: "causal from the start",
    UNTRAINED: "causal, then unlocked, not trained",
    CONTROL: "causal, then LoRA, causal",
    ADAPTED: "causal, then LoRA, unlocked",
    ADAPTED + LOCKED: "the same weights, locked",
    MMA: "MMA from the start",
    MMA + LOCKED: "the same weights, locked again",
    CONTINUED: "MMA, then LoRA, MMA",
}
_MMA_COLOUR, _CAUSAL_COLOUR = colour(Arm(MMA)), colour(Arm(CAUSAL))
_STYLES: dict[str, dict[str, Any]] = {
    CAUSAL: {"color": _CAUSAL_COLOUR, "marker": "o", "linestyle": "-"},
    UNTRAINED: {"color": _CAUSAL_COLOUR, "marker": "x", "linestyle": "none"},
    CONTROL: {"color": _CAUSAL_COLOUR, "marker": "o", "linestyle": ":", "markerfacecolor": "white"},
    ADAPTED: {"color": colour(Arm("prefix")), "marker": "D", "linestyle": "--"},
    MMA: {"color": _MMA_COLOUR, "marker": "s", "linestyle": "-"},
    CONTINUED: {"color": _MMA_COLOUR, "marker": "s", "linestyle": ":", "markerfacecolor": "white"},
}
_BESIDE = 0.13  # families: between the dots of one
_FIGURE = "unlock-lora.svg"


@dataclass(frozen=True)
class ScoreRow(Row):
    """How many questions of a family an arm answered right, after so many samples."""

    seed: int
    arm: str
    split: str
    samples: int
    family: str
    correct: int
    total: int

    FILE: ClassVar[str] = "unlock-lora.csv"
    MEASURED: ClassVar[tuple[str, ...]] = ("correct", "total")


@dataclass(frozen=True)
class Scores:
    """Accuracies at the end of every arm, 0 to 1, on one split."""

    rows: Sequence[ScoreRow]

    @classmethod
    def last(cls, rows: Iterable[ScoreRow], split: str) -> Scores:
        of_split = [row for row in rows if row.split == split]
        ends = {(row.seed, row.arm): row.samples for row in sorted(of_split, key=lambda row: row.samples)}
        return cls([row for row in of_split if row.samples == ends[row.seed, row.arm]])

    @property
    def seeds(self) -> list[int]:
        return sorted({row.seed for row in self.rows})

    @property
    def arms(self) -> list[str]:
        there = {row.arm for row in self.rows}
        return [arm for arm in WORDS if arm in there]

    @property
    def families(self) -> list[str]:
        return [ALL, *dict.fromkeys(row.family for row in self.rows)]

    def of(self, arm: str, seed: int, family: str = ALL) -> float:
        return _accuracy(r for r in self.rows if r.arm == arm and r.seed == seed and family in (ALL, r.family))

    def gain(self, arm: str, base: str, seed: int) -> float:
        return self.of(arm, seed) - self.of(base, seed)

    def closed(self, arm: str, base: str, seed: int) -> float:
        """The share of the gap between the two trained from the start that lies between two arms; nan without a gap."""
        gap = self.gain(MMA, CAUSAL, seed)
        return self.gain(arm, base, seed) / gap if gap else math.nan


def _accuracy(rows: Iterable[ScoreRow]) -> float:
    rows = list(rows)
    return sum(row.correct for row in rows) / sum(row.total for row in rows)


def report(folder: Path, rows: Sequence[ScoreRow]) -> str:
    """Draws the figure into the folder, and returns the tables as Markdown: of the test split, if it was asked."""
    split = TEST if any(row.split == TEST for row in rows) else VALIDATION
    scores = Scores.last(rows, split)
    _figure(rows, scores).savefig(folder / _FIGURE)
    return "\n\n".join([_accuracies(scores, split), _differences(scores)])


def _accuracies(scores: Scores, split: str) -> str:
    lines = [[f"{split} questions", *scores.families, *(f"seed {seed}" for seed in scores.seeds)]]
    for arm in scores.arms:
        means = [mean_over([scores.of(arm, seed, family) for seed in scores.seeds]) for family in scores.families]
        seeds = [f"{100 * scores.of(arm, seed):.1f}" for seed in scores.seeds]
        whole = means[0]
        if whole.is_bounded:  # by what a share can be, too
            whole = replace(whole, low=max(0.0, whole.low), high=min(1.0, whole.high))
        lines.append([WORDS[arm], words.accuracy(whole), *(f"{100 * mean.value:.1f}" for mean in means[1:]), *seeds])
    return _markdown(lines)


def _differences(scores: Scores) -> str:
    """In points, and as shares of the gap."""
    lines = [["over all families", "mean", *(f"seed {seed}" for seed in scores.seeds)]]
    pairs = {
        "gap: MMA less causal, both from the start": (MMA, CAUSAL),
        "unlocked, not trained, less causal": (UNTRAINED, CAUSAL),
        "LoRA unlocked less causal": (ADAPTED, CAUSAL),
        "LoRA causal less causal (control)": (CONTROL, CAUSAL),
        "LoRA unlocked less LoRA causal": (ADAPTED, CONTROL),
        "LoRA unlocked less the same weights locked": (ADAPTED, ADAPTED + LOCKED),
        "MMA from the start less the same weights locked": (MMA, MMA + LOCKED),
        "MMA with LoRA less LoRA unlocked": (CONTINUED, ADAPTED),
    }
    for name, (arm, base) in pairs.items():
        if {arm, base} <= set(scores.arms):
            each = [scores.gain(arm, base, seed) for seed in scores.seeds]
            lines.append([f"{name}, points", words.points(mean_over(each)), *(f"{100 * x:+.1f}" for x in each)])
    for name, base in (("closed by LoRA unlocked", CAUSAL), ("closed beyond the control", CONTROL)):
        each = [scores.closed(ADAPTED, base, seed) for seed in scores.seeds]
        mean = words.accuracy(mean_over(each)) if all(map(math.isfinite, each)) else "no gap"
        shares = (f"{100 * x:.0f} %" if math.isfinite(x) else "no gap" for x in each)
        lines.append([f"share of the gap {name}", mean, *shares])
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def _figure(rows: Sequence[ScoreRow], scores: Scores) -> Any:
    """Left, accuracy on the validation split while learning; right, at the end, by family, a small dot a seed."""
    figure, (curves, ends) = panels(2, 2, 3.4)
    handles: dict[str, Any] = {}
    arms = [arm for arm in scores.arms if arm in _STYLES]
    for arm in arms:
        mine = [row for row in rows if row.arm == arm and row.split == VALIDATION]
        if mine:
            (handles[WORDS[arm]],) = _curve(curves, rows, arm, mine)
    title(curves, "while learning, validation questions, mean of the seeds")
    curves.set_xlabel("samples", fontsize=9)
    curves.xaxis.set_major_formatter(thousands)
    percent(curves.yaxis)
    for place, arm in enumerate(arms):
        beside = _BESIDE * (place - (len(arms) - 1) / 2)
        for at, family in enumerate(scores.families):
            each = [100 * scores.of(arm, seed, family) for seed in scores.seeds]
            style = {**_STYLES[arm], "linestyle": "none"}
            ends.plot([at + beside] * len(each), each, **{**style, "markersize": 3, "alpha": 0.4})
            (dot,) = ends.plot([at + beside], [sum(each) / len(each)], **{**style, "markersize": 6})
            handles.setdefault(WORDS[arm], dot)
    title(ends, f"at the end, {scores.rows[0].split} questions; small: single seeds")
    ends.set_xticks(range(len(scores.families)), scores.families)
    percent(ends.yaxis)
    legend(figure, handles)
    return figure


def _curve(axes: Any, rows: Sequence[ScoreRow], arm: str, mine: Sequence[ScoreRow]) -> Any:
    """Of the seeds' mean; adapters go on from where the model stood that they are in."""
    before = {ADAPTED: CAUSAL, CONTROL: CAUSAL, CONTINUED: MMA}.get(arm)
    points = {at: _accuracy(r for r in mine if r.samples == at) for at in sorted({row.samples for row in mine})}
    if before is not None:
        base = [row for row in rows if row.arm == before and row.split == VALIDATION]
        end = max(row.samples for row in base)
        points = {end: _accuracy(r for r in base if r.samples == end), **points}
    return axes.plot(list(points), [100 * y for y in points.values()], **_STYLES[arm], markersize=4.5, lw=1.4)
