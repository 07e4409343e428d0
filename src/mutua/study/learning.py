"""The sections of a study's report on how soon its arms learn, from the validation rows of scores.csv."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mutua.evaluation import words
from mutua.page import Picture, Section, Table
from mutua.study.curves import curves_figure, family_curves_figure
from mutua.study.results import BASELINE, MAIN, ScoreRow
from mutua.study.statistics import caught_up, mean_curve, reached
from mutua.study.summary import Arm, Questions, curves, place_labels
from mutua.study.tables import stem

_ASKED = {"scenes": "other scenes of the training split, which have no third one,"}
_MARGIN = 0.01  # a baseline has caught up when it is no more than this share of answers behind


def learning_section(block: str, rows: Sequence[ScoreRow]) -> Section:
    """How soon the arms of a block learn; rows of the validation split."""
    lines: list[tuple[str, ...]] = []
    parts: dict[tuple[Arm, int], list[tuple[float, float] | None]] = {}
    for questions in [Questions(task) for task in dict.fromkeys(row.task for row in rows)]:
        found = curves(rows, questions)
        names = place_labels(place for place, _ in found)
        for (place, arm), by_seed in found.items():
            theirs = found.get((place, Arm(BASELINE, arm.order)), {})
            shared = sorted(by_seed.keys() & theirs.keys())
            curve, baseline = (mean_curve([of[seed] for seed in shared]) for of in (by_seed, theirs))
            if arm.policy == BASELINE or not (curve and baseline and baseline[-1].seconds):  # or nothing trained yet
                continue
            last, end, then = baseline[-1], caught_up(curve, baseline, _MARGIN), reached(curve, baseline[-1].accuracy)
            own = reached(baseline, last.accuracy) or last  # where it levels off, it was there before
            reach = "never" if then is None else f"{then.samples:,.0f} samples"
            catch = "not by the end" if end is None else f"{end.samples:,.0f} samples"
            if end is not None and end.samples == baseline[0].samples:
                catch = f"not behind at any of {words.counted(len(baseline), 'points')}"
            values = (f"{100 * last.accuracy:.1f} %", f"{100 * curve[-1].accuracy:.1f} %")
            lines.append(
                (names[place], questions.task, arm.label, *values, reach, f"{own.samples:,.0f} samples", catch)
            )
            if own.samples:  # a baseline that knew it all before it was trained has no share to give
                part = None if then is None else (then.samples / own.samples, then.seconds / own.seconds)
                parts.setdefault((arm, place.length), []).append(part)
    several = len({length for _, length in parts}) > 1
    sentences = [
        (f"Trained on {length:,} samples: " if several else "") + _sooner(arm, of_curves, block == MAIN)
        for (arm, length), of_curves in parts.items()
    ]
    header = (
        "where",
        "task",
        "policy",
        "causal's last",
        "its last",
        "comes to causal's last after",
        "causal itself after",
        "causal catches up",
    )
    caption = (
        f"On mean curves, with no interval. Caught up: from there on never more than {100 * _MARGIN:g} point behind"
    )
    line = "Lines: means over seeds; bands: from the lowest seed to the highest."
    drawn: list[tuple[str, str, Callable[[], Any]]] = [
        ("", f"Accuracy on {_ASKED.get(block, 'the validation split')} while training.", partial(curves_figure, rows)),
        (
            "-by-time",
            "The same against time, by the median time of a step.",
            partial(curves_figure, rows, by_time=True),
        ),
        ("-by-family", "The same by family.", partial(family_curves_figure, rows)),
    ]
    name = "learning-curves" if block == MAIN else f"learning-curves-{stem(block)}"
    shown = [
        Picture(f"{name}{suffix}", f"{text} {line}", draw)
        for suffix, text, draw in (drawn if block == MAIN else drawn[:1])
    ]
    tables = [Table(caption, header, lines, 3)] if lines else []
    heading = "Learning curves" if block == MAIN else f"Learning curves: {block}"
    return Section(heading, f"{ScoreRow.FILE}, split validation", sentences, shown, tables)


def _sooner(arm: Arm, parts: Sequence[tuple[float, float] | None], by_time: bool) -> str:
    """In how many curves an arm comes to causal's last accuracy, and after what share of the samples (and seconds) that
    causal attention took to come there first."""
    there = [part for part in parts if part is not None]
    said = f"{arm.label} comes to {BASELINE}'s last accuracy in {len(there)} of {words.counted(len(parts), 'curves')}"
    if not there:
        return f"{said}."
    ends = (dict.fromkeys(f"{100 * end(of):.0f}" for end in (min, max)) for of in zip(*there, strict=True))
    samples, seconds = (f"{' to '.join(of)} %" for of in ends)
    return f"{said}, after {samples} of the samples{f' and {seconds} of the seconds' * by_time} that {BASELINE} took."
