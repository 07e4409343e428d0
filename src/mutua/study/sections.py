"""The sections of a study's report on how often models are right, from scores.csv and pairs.csv."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from mutua.attention.policy import MMA
from mutua.evaluation import words
from mutua.evaluation.intervals import Estimate, paired_proportions
from mutua.page import Picture, Section, Table
from mutua.study.curves import SWEEPS, sweep_figure
from mutua.study.figures import accuracy_figure, forest_figure, seeds_figure
from mutua.study.learning import learning_section
from mutua.study.results import BASELINE, MAIN, NULL, WITH_CURVES, PairRow, ScoreRow
from mutua.study.summary import (
    ALL,
    Arm,
    Asked,
    Difference,
    Gain,
    Measured,
    Questions,
    accuracies,
    asks,
    blind_guesses,
    differences,
    grouped,
    image_first_of,
    place_labels,
    place_of,
    relative_gains,
)
from mutua.study.tables import accuracy_table, difference_tables, marked, stem

_DRAWN = Arm(MMA.name)  # seed by seed, only the policy that the study is about
_ORDER = "order"  # the block whose arms are compared in two ways: by policy, and by the order of picture and question
_NAMED = 3  # of the models that are missing
_SWEPT = {
    "image tokens": "Cells, visual tokens and objects in a picture grow together, and each size has an encoder of its "
    "own, trained for as many steps as the others: two sizes differ in all of these, two policies at one size in none."
}
_USUAL = "Its arms in the usual setting are models of the main block: they are not trained again."
_ORDERED = (
    "All are asked with the picture first. Those trained text-first never saw that, those trained on both saw it in "
    "half of their samples: what an order costs here is that, too."
)
_IN_STAGES = "Where training has two stages, it is compared with two stages with the picture first."


def score_sections(
    scores: Sequence[ScoreRow], pairs: Sequence[PairRow], missing: Mapping[str, Sequence[str]]
) -> list[Section]:
    """What scores.csv says, block by block: the main one first, the checks that nothing is gained where nothing can be
    last.

    Args:
        missing: arms that are not measured, by block; its sections say so.
    """
    blocks = list(dict.fromkeys(row.block for row in scores))
    blocks.sort(key=lambda block: (block != MAIN, block.startswith(NULL)))
    out = []
    for block in blocks:
        own = [row for row in scores if row.block == block]
        tested = [row for row in own if row.split == "test"]
        on_the_way = [row for row in own if row.split == "validation"]
        ours = [pair for pair in pairs if pair.block == block]
        sections = _of_block(block, tested, ours) if tested else []
        if on_the_way and block in WITH_CURVES:
            sections.append(learning_section(block, on_the_way))
        if absent := missing.get(block, ()):
            some = f"{', '.join(absent[:_NAMED])}{', ...' if len(absent) > _NAMED else ''}"
            said = f"Not whole: {words.counted(len(absent), 'models')} not measured ({some})."
            sections = [replace(section, sentences=[said, *section.sentences]) for section in sections]
        out += sections
    return out + [_nothing_of(block, names) for block, names in missing.items() if block not in blocks]


def _nothing_of(block: str, names: Sequence[str]) -> Section:
    return Section(f"Block: {block}", "study.json", [f"Nothing measured yet: {words.counted(len(names), 'models')}."])


def _of_block(block: str, rows: Sequence[ScoreRow], pairs: Sequence[PairRow]) -> list[Section]:
    if block == MAIN:
        return _main(rows, pairs)
    if block == _ORDER:
        return [_other(block, rows, pairs), *_orders(rows)]
    return [_sweep(block, rows, pairs) if block in SWEEPS else _other(block, rows, pairs)]


def _main(rows: Sequence[ScoreRow], pairs: Sequence[PairRow]) -> list[Section]:
    measured, found = accuracies(rows), differences(rows, pairs)
    out = []
    if found:
        sentences, gains = _gains(rows)
        out.append(
            Section(
                "Differences",
                f"{ScoreRow.FILE} and {PairRow.FILE}" if any(one.p is None for one in found) else ScoreRow.FILE,
                [*sentences, *_said(found, rows)],
                [_forest("differences", found)],
                [*gains, *difference_tables(found)],
            )
        )
    if pairs:
        out.append(_seed_by_seed(pairs))
    if measured:
        shown = [_accuracy_picture("accuracy", measured, blind_guesses(rows))]
        table = accuracy_table("Accuracy on the test split, with 95 % intervals", measured)
        out.append(Section("Accuracy", ScoreRow.FILE, [_asked(rows)], shown, [table]))
    return out


def _asked(rows: Sequence[ScoreRow]) -> str:
    """How many questions a model answered, by family."""
    families = {Questions(row.task, row.family).label: row.total for row in rows}
    by_count = grouped(families, families.__getitem__)
    return f"A model answered {'; '.join(f'{count:,} each of {_listed(names)}' for count, names in by_count.items())}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _accuracy_picture(name: str, measured: Sequence[Measured], blind: Mapping[Asked, float]) -> Picture:
    caption = "Accuracy on the test split, with 95 % intervals; dashed: the best guess that sees no picture."
    return Picture(name, caption, partial(accuracy_figure, measured, blind))


def _gains(rows: Sequence[ScoreRow]) -> tuple[list[str], list[Table]]:
    """The relative gains in a sentence an arm, and as a table."""
    try:
        gains = relative_gains(rows)
    except ValueError as error:
        return [f"No relative gain: {error}"], []
    names = place_labels(gain.place for gain in gains if gain.place is not None)
    count = len({(row.task, row.family) for row in rows})
    families = "1 family" if count == 1 else f"{count} families"
    sentences = [f"{said}, mean over {families}: {values}." for said, values in _overall(gains)]
    for task, own in (tasks := grouped(rows, lambda row: row.task)).items():
        if len(tasks) > 1:
            sentences += [
                f"{said}, families of {task} alone: {values}." for said, values in _overall(relative_gains(own))
            ]
    table = Table(
        "Relative gain: the mean over families of (accuracy - baseline's) / baseline's, with 95 % intervals",
        ("policy", "baseline", "where", "gain", "over"),
        [
            (
                gain.arm.label,
                gain.baseline.label,
                names[gain.place] if gain.place is not None else gain.backbone or "all",
                marked(words.percents(gain.estimate), gain.estimate),
                words.counted(gain.estimate.count, gain.estimate.unit),
            )
            for gain in gains
        ],
        words=3,
    )
    return sentences, [table] if gains else []


def _overall(gains: Sequence[Gain]) -> list[tuple[str, str]]:
    """Of each arm whose gain it is, and its gains over all places in words; of its places, where there is one."""
    return [
        (
            f"Relative gain of {arm.label} on {mine[0].baseline.label}",
            "; ".join(
                f"{words.percents(gain.estimate)} over {words.counted(gain.estimate.count, gain.estimate.unit)}, "
                f"{words.judged_gain(gain.estimate)}"
                for gain in [gain for gain in mine if gain.is_of_all] or mine
            ),
        )
        for arm, mine in grouped(gains, lambda gain: gain.arm).items()
    ]


def _seed_by_seed(pairs: Sequence[PairRow]) -> Section:
    """How often one seed's interval over questions lies above 0, holds it, lies below: a replication count."""
    families = list(dict.fromkeys(Questions(pair.task, pair.family) for pair in pairs))
    tasks = [Questions(task) for task, own in grouped(families, lambda one: one.task).items() if len(own) > 1]
    columns = [*families, *tasks]
    names = place_labels(map(place_of, pairs))
    arms = grouped(pairs, lambda pair: (Arm(pair.policy, pair.order), Arm(pair.baseline, pair.order), place_of(pair)))
    counts, single, drawn = [], [], []
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
        counts.append(
            (f"{arm.label} - {baseline.label}", names[place], *(" / ".join(map(str, part)) for part in parts))
        )
        if arm == _DRAWN:
            for questions, of_seeds in zip(columns, cells, strict=True):
                drawn += [(place, questions, seed, estimate) for seed, estimate in of_seeds.items()]
        for seed, _ in by_seed:
            row = (marked(words.points(own[seed]), own[seed]) if seed in own else "-" for own in cells)
            single.append((f"{arm.label} - {baseline.label}", names[place], str(seed), *row))
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
    return Section("Seed by seed, on the same questions", PairRow.FILE, _seed_sentences(pairs), shown, tables)


def _seed_sentences(pairs: Sequence[PairRow]) -> list[str]:
    """By arm, how many intervals over the questions of one seed and family lie on either side of 0.

    They vary with the seed more than such an interval knows, also where nothing can be gained: see the null checks.
    """
    out = []
    for arm, mine in grouped(pairs, lambda pair: Arm(pair.policy, pair.order)).items():
        above, holding, below = _parted(_pooled([pair]) for pair in mine)
        out.append(
            f"{arm.label}: of {len(mine)} intervals over the questions of one seed and family, {above} lie above 0, "
            f"{below} below, {holding} hold 0."
        )
    return out


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
    sentences = [_USUAL, _SWEPT[block]] if block in _SWEPT else [_USUAL]
    return Section(f"Sweep: {block}", ScoreRow.FILE, [*sentences, *_said(found, rows)], shown, tables)


def _other(block: str, rows: Sequence[ScoreRow], pairs: Sequence[PairRow]) -> Section:
    measured, found = accuracies(rows), differences(rows, pairs)
    sentences = [*([_USUAL, _ORDERED] if block == _ORDER else []), *_said(found, rows)]
    if block.startswith(NULL) and found:
        sentences = ["Nothing can be gained here.", *sentences, *_seed_sentences(pairs)]
    shown = [_forest(f"differences-{stem(block)}", found)] if found else []
    if block != _ORDER and (blind := blind_guesses(rows)):  # too many arms for one figure
        shown.append(_accuracy_picture(f"accuracy-{stem(block)}", measured, blind))
    tables = [accuracy_table("Accuracy, with 95 % intervals", measured, folded=True), *difference_tables(found)]
    heading = f"Null check: {block.removeprefix(NULL)}" if block.startswith(NULL) else f"Block: {block}"
    return Section(heading, ScoreRow.FILE, sentences, shown, tables)


def _orders(rows: Sequence[ScoreRow]) -> list[Section]:
    """What the order of picture and question does under one policy, beside what a policy does in one order."""
    found = differences(rows, baseline_of=image_first_of)
    if not found:
        return []
    shown = [_forest("differences-order-of-one-policy", found, "with the picture first")]
    heading = "Block: order, under the same policy"
    sentences = [_ORDERED, _IN_STAGES, *_said(found)]
    return [Section(heading, ScoreRow.FILE, sentences, shown, difference_tables(found))]


def _said(found: Sequence[Difference], rows: Sequence[ScoreRow] = ()) -> list[str]:
    """What is seen of these differences; of these rows, which families no model has learned."""
    return [*_task_sentences(found), *_unlearned(rows), _by_chance(found)] if found else []


def _unlearned(rows: Sequence[ScoreRow]) -> list[str]:
    """Where no model of a place is seen above what a guess scores that never sees the picture."""
    blind, names = blind_guesses(rows), place_labels(place_of(row) for row in rows)
    out = []
    for questions, mine in grouped(accuracies(rows), lambda one: one.questions).items():
        known = [(one, guess) for one in mine if (guess := blind.get((one.place.side, questions))) is not None]
        by_place = grouped(known, lambda one: one[0].place)
        where = [
            f"{names[place]} ({100 * ours[0][1]:.1f} %)"
            for place, ours in by_place.items()
            if not any(
                (one.estimate.low if one.estimate.is_bounded else one.estimate.value) > guess for one, guess in ours
            )
        ]
        if where and questions.family != ALL:
            out.append(
                f"{questions.label}: no model is seen above the best guess without the picture, so differences say "
                f"nothing there: {', '.join(where)}."
            )
    return out


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
    """Exact ties aside, of models that answer alike: there no chance is at work."""
    judged = [one for one in found if one.estimate.is_bounded and one.estimate.low < one.estimate.high]
    if not judged:
        return "Every difference is an exact tie, or has no interval."
    seen, ties = sum(one.estimate.excludes_zero for one in judged), len(found) - len(judged)
    return (
        f"Of {len(judged)} intervals over all families and tasks, {seen} leave out 0; by chance alone about "
        f"{len(judged) / 20:.1f} would."
        + (f" Aside from these: exact ties, or without an interval, {ties}." if ties else "")
    )


def _forest(name: str, found: Sequence[Difference], against: str = BASELINE) -> Picture:
    caption = (
        f"Points more than {against}, paired by seed, with 95 % intervals. A whisker through 0: no difference seen."
    )
    return Picture(name, caption, partial(forest_figure, found, against))


def _parted(estimates: Iterable[Estimate]) -> tuple[int, int, int]:
    """How many intervals lie above 0, hold it, lie below."""
    parts = [0, 0, 0]
    for one in estimates:
        parts[0 if one.low > 0 else 2 if one.high < 0 else 1] += 1
    return parts[0], parts[1], parts[2]


def _pooled(pairs: Sequence[PairRow]) -> Estimate:
    """The paired difference over the questions of several families."""
    return paired_proportions(*map(sum, zip(*(pair.counts for pair in pairs), strict=True)))
