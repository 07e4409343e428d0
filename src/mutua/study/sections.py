"""The sections of a study's report on how often models are right, from scores.csv and pairs.csv."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from mutua.attention.policy import MMA
from mutua.evaluation import words
from mutua.evaluation.intervals import Estimate, paired_proportions
from mutua.page import Picture, Section, Table
from mutua.study.curves import SWEEPS, curves_figure, family_curves_figure, sweep_figure
from mutua.study.figures import accuracy_figure, forest_figure, seeds_figure
from mutua.study.results import BASELINE, MAIN, NULL, PairRow, ScoreRow
from mutua.study.statistics import (
    caught_up,
    mean_curve,
    reached,
)
from mutua.study.summary import (
    ALL,
    Arm,
    Difference,
    Questions,
    accuracies,
    asks,
    blind_guesses,
    curves,
    differences,
    grouped,
    place_labels,
    place_of,
    relative_gains,
)
from mutua.study.tables import accuracy_table, difference_tables, marked, stem

_DRAWN = Arm(MMA.name)  # seed by seed, only the policy that the study is about
_MARGIN = 0.01  # a baseline has caught up when it is no more than this share of answers behind


def score_sections(scores: Sequence[ScoreRow], pairs: Sequence[PairRow]) -> list[Section]:
    """What scores.csv says, block by block: the main one first, the checks that nothing is gained where nothing can be
    last."""
    blocks = list(dict.fromkeys(row.block for row in scores))
    blocks.sort(key=lambda block: (block != MAIN, block.startswith(NULL)))
    out = []
    for block in blocks:
        own = [row for row in scores if row.block == block]
        tested = [row for row in own if row.split == "test"]
        ours = [pair for pair in pairs if pair.block == block]
        if block == MAIN:
            out += [*_main(tested, ours), *_learning([row for row in own if row.split == "validation"])]
        elif tested:
            out.append(_sweep(block, tested, ours) if block in SWEEPS else _other(block, tested, ours))
    return out


def _main(rows: Sequence[ScoreRow], pairs: Sequence[PairRow]) -> list[Section]:
    measured, found = accuracies(rows), differences(rows, pairs)
    out = []
    if found:
        sentences, gains = _gains(rows)
        out.append(
            Section(
                "Differences",
                f"{ScoreRow.FILE} and {PairRow.FILE}" if any(one.p is None for one in found) else ScoreRow.FILE,
                [*sentences, *_task_sentences(found), _by_chance(found)],
                [_forest("differences", found)],
                [*gains, *difference_tables(found)],
            )
        )
    if pairs:
        out.append(_seed_by_seed(pairs))
    if measured:
        shown = partial(accuracy_figure, measured, blind_guesses(rows))
        caption = "Accuracy on the test split, with 95 % intervals; dashed: the best guess that sees no picture."
        table = accuracy_table("Accuracy on the test split, with 95 % intervals", measured)
        out.append(Section("Accuracy", ScoreRow.FILE, pictures=[Picture("accuracy", caption, shown)], tables=[table]))
    return out


def _gains(rows: Sequence[ScoreRow]) -> tuple[list[str], list[Table]]:
    """The relative gains in a sentence an arm, and as a table."""
    try:
        gains = relative_gains(rows)
    except ValueError as error:
        return [f"No relative gain: {error}"], []
    names = place_labels(gain.place for gain in gains if gain.place is not None)
    count = len({(row.task, row.family) for row in rows})
    families = "1 family" if count == 1 else f"{count} families"
    sentences = []
    for arm, mine in grouped(gains, lambda gain: gain.arm).items():
        overall = [gain for gain in mine if gain.place is None] or mine
        values = "; ".join(
            f"{words.percents(gain.estimate)} over {words.counted(gain.estimate.count, gain.estimate.unit)}, "
            f"{words.judged_gain(gain.estimate)}"
            for gain in overall
        )
        sentences.append(f"Relative gain of {arm.label} on {mine[0].baseline.label}, mean over {families}: {values}.")
    table = Table(
        "Relative gain: the mean over families of (accuracy - baseline's) / baseline's, with 95 % intervals",
        ("policy", "baseline", "where", "gain", "over"),
        [
            (
                gain.arm.label,
                gain.baseline.label,
                "all" if gain.place is None else names[gain.place],
                marked(words.percents(gain.estimate), gain.estimate),
                words.counted(gain.estimate.count, gain.estimate.unit),
            )
            for gain in gains
        ],
        words=3,
    )
    return sentences, [table] if gains else []


def _seed_by_seed(pairs: Sequence[PairRow]) -> Section:
    """How often one seed's interval over questions lies above 0, holds it, lies below: a replication count."""
    families = list(dict.fromkeys(Questions(pair.task, pair.family) for pair in pairs))
    tasks = [Questions(task) for task, own in grouped(families, lambda one: one.task).items() if len(own) > 1]
    columns = [*families, *tasks]
    names = place_labels(map(place_of, pairs))
    arms = grouped(pairs, lambda pair: (Arm(pair.policy, pair.order), Arm(pair.baseline, pair.order), place_of(pair)))
    counts, single, drawn = [], [], []
    totals = {arm: [0, 0, 0] for arm, *_ in arms}
    for (arm, baseline, place), ours in arms.items():
        by_seed = sorted(grouped(ours, lambda pair: pair.seed).items())
        cells = [
            {
                seed: _pooled(four)
                for seed, mine in by_seed
                if (four := [pair for pair in mine if asks(questions, pair)])
            }
            for questions in columns
        ]
        parts = [_parted(of_seeds.values()) for of_seeds in cells]
        for part in parts[: len(families)]:
            totals[arm] = [total + count for total, count in zip(totals[arm], part, strict=True)]
        counts.append(
            (f"{arm.label} - {baseline.label}", names[place], *(" / ".join(map(str, part)) for part in parts))
        )
        if arm == _DRAWN:
            for questions, of_seeds in zip(columns, cells, strict=True):
                drawn += [(place, questions, seed, estimate) for seed, estimate in of_seeds.items()]
        for seed, _ in by_seed:
            row = (marked(words.points(own[seed]), own[seed]) if seed in own else "-" for own in cells)
            single.append((f"{arm.label} - {baseline.label}", names[place], str(seed), *row))
    sentences = [
        f"{arm.label}: of {sum(total)} intervals over the questions of one seed and family, {total[0]} lie above 0, "
        f"{total[2]} below, {total[1]} hold 0."
        for arm, total in totals.items()
    ]
    header = [questions.label for questions in columns]
    tables = [
        Table("Seeds whose interval lies above 0 / holds 0 / lies below", ("difference", "where", *header), counts, 2),
        Table(
            "Every seed: difference in points, with 95 % intervals over the questions",
            ("difference", "where", "seed", *header),
            single,
            words=2,
            folded=True,
        ),
    ]
    caption = (
        f"{_DRAWN.label} seed by seed: points more than {BASELINE}, with 95 % intervals over the questions. "
        "A hollow dot: its interval holds 0."
    )
    shown = [Picture("seeds", caption, partial(seeds_figure, drawn, _DRAWN))] if drawn else []
    return Section("Seed by seed, on the same questions", PairRow.FILE, sentences, shown, tables)


def _learning(rows: Sequence[ScoreRow]) -> list[Section]:
    if not rows:
        return []
    lines: list[tuple[str, ...]] = []
    parts: dict[Arm, list[tuple[float, float] | None]] = {}
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
            reach = "never" if then is None else f"{then.samples:,.0f} samples, {then.seconds:,.0f} s"
            catch = "not by the end" if end is None else f"{end.samples:,.0f} samples"
            if end is not None and end.samples == baseline[0].samples:
                catch = "was never behind"
            values = (f"{100 * last.accuracy:.1f} %", f"{100 * curve[-1].accuracy:.1f} %")
            lines.append((names[place], questions.task, arm.label, *values, reach, catch))
            part = None if then is None else (then.samples / last.samples, then.seconds / last.seconds)
            parts.setdefault(arm, []).append(part)
    sentences = [_sooner(arm, of_curves) for arm, of_curves in parts.items()]
    header = (
        "where",
        "task",
        "policy",
        "causal's last",
        "its last",
        "comes to causal's last after",
        "causal catches up",
    )
    caption = (
        f"On mean curves, with no interval. Caught up: from there on never more than {100 * _MARGIN:g} point behind. "
        "Seconds: steps by the median time of a step"
    )
    line = "Lines: means over seeds; bands: from the lowest seed to the highest."
    shown = [
        Picture(
            "learning-curves", f"Accuracy on the validation split while training. {line}", partial(curves_figure, rows)
        ),
        Picture(
            "learning-curves-by-time", f"The same against time. {line}", partial(curves_figure, rows, by_time=True)
        ),
        Picture("learning-curves-by-family", f"The same by family. {line}", partial(family_curves_figure, rows)),
    ]
    tables = [Table(caption, header, lines, 3)] if lines else []
    return [Section("Learning curves", f"{ScoreRow.FILE}, split validation", sentences, shown, tables)]


def _sooner(arm: Arm, parts: Sequence[tuple[float, float] | None]) -> str:
    """In how many curves an arm comes to causal's last accuracy, and after what share of its samples and seconds."""
    there = [part for part in parts if part is not None]
    said = f"{arm.label} comes to {BASELINE}'s last accuracy in {len(there)} of {words.counted(len(parts), 'curves')}"
    if not there:
        return f"{said}."
    ends = (dict.fromkeys(f"{100 * end(of):.0f}" for end in (min, max)) for of in zip(*there, strict=True))
    samples, seconds = (f"{' to '.join(of)} %" for of in ends)
    return f"{said}, after {samples} of {BASELINE}'s samples and {seconds} of its seconds."


def _sweep(block: str, rows: Sequence[ScoreRow], pairs: Sequence[PairRow]) -> Section:
    axis = SWEEPS[block][1]
    measured, found = accuracies(rows), differences(rows, pairs)
    shown = []
    settings = grouped(rows, lambda row: (row.backbone, row.connector))
    for setting, own in settings.items():
        name = "-".join([stem(block), *(map(stem, setting) if len(settings) > 1 else ())])
        caption = (
            f"{', '.join(setting)}: accuracy on the test split (above), difference from causal (below), by {axis}."
        )
        shown.append(Picture(name, caption, partial(sweep_figure, own, pairs)))
    tables = [accuracy_table("Accuracy, with 95 % intervals", measured, folded=True), *difference_tables(found)]
    return Section(f"Sweep: {block}", ScoreRow.FILE, _task_sentences(found), shown, tables)


def _other(block: str, rows: Sequence[ScoreRow], pairs: Sequence[PairRow]) -> Section:
    measured, found = accuracies(rows), differences(rows, pairs)
    sentences = _task_sentences(found)
    if block.startswith(NULL) and found:
        seen = [one for one in found if one.estimate.excludes_zero]
        sentences.append(
            f"Where nothing can be gained, {len(seen)} of {len(found)} intervals leave out 0; by chance alone "
            f"about {len(found) / 20:.1f} would."
        )
    shown = [_forest(f"differences-{stem(block)}", found)] if found else []
    tables = [accuracy_table("Accuracy, with 95 % intervals", measured, folded=True), *difference_tables(found)]
    heading = f"Null check: {block.removeprefix(NULL)}" if block.startswith(NULL) else f"Block: {block}"
    return Section(heading, ScoreRow.FILE, sentences, shown, tables)


def _is_overall(questions: Questions, found: Iterable[Difference]) -> bool:
    """All of a task, or its only family."""
    return questions.family == ALL or not any(one.questions == Questions(questions.task) for one in found)


def _task_sentences(found: Sequence[Difference]) -> list[str]:
    """On all questions of each task, a sentence an arm."""
    names = place_labels(one.place for one in found)
    overall = sorted((one for one in found if _is_overall(one.questions, found)), key=lambda one: one.place)
    groups = grouped(overall, lambda one: (one.questions, one.arm, one.baseline))
    return [
        f"{questions.label}: "
        + words.compared(arm.label, baseline.label, ((names[one.place], one.estimate) for one in mine))
        for (questions, arm, baseline), mine in groups.items()
    ]


def _by_chance(found: Sequence[Difference]) -> str:
    judged = [one for one in found if one.estimate.is_bounded]
    seen = sum(one.estimate.excludes_zero for one in judged)
    return (
        f"Of {len(judged)} intervals over all families and tasks, {seen} leave out 0; by chance alone about "
        f"{len(judged) / 20:.1f} would."
    )


def _forest(name: str, found: Sequence[Difference]) -> Picture:
    baselines = " or ".join(dict.fromkeys(one.baseline.label for one in found))
    caption = (
        f"Points more than {baselines}, paired by seed, with 95 % intervals. A whisker through 0: no difference seen."
    )
    return Picture(name, caption, partial(forest_figure, found))


def _parted(estimates: Iterable[Estimate]) -> tuple[int, int, int]:
    """How many intervals lie above 0, hold it, lie below."""
    parts = [0, 0, 0]
    for one in estimates:
        parts[0 if one.low > 0 else 2 if one.high < 0 else 1] += 1
    return parts[0], parts[1], parts[2]


def _pooled(pairs: Sequence[PairRow]) -> Estimate:
    """The paired difference over the questions of several families."""
    return paired_proportions(*map(sum, zip(*(pair.counts for pair in pairs), strict=True)))
