"""From rows to what is drawn and written: arms, the places where they are compared, and estimates over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from mutua.attention.policy import POLICIES
from mutua.evaluation.accuracy import Score
from mutua.evaluation.intervals import Estimate, paired_proportions
from mutua.study.plan import IMAGE_FIRST, TWO_STAGES
from mutua.study.results import BASELINE, BLIND, TRUTH, PairRow, ScoreRow, YesRow
from mutua.study.statistics import Point, mean_of_few, paired_by_seed, relative_gain, sign_flip_test

ALL = "all"  # in the place of a family: all questions of the task
NO_ARM = (BLIND, TRUTH)

Item = TypeVar("Item")
Group = TypeVar("Group", bound=Hashable)


@dataclass(frozen=True, order=True)
class Place:
    """Where arms are compared: all that they have in common but the seed."""

    backbone: str
    connector: str
    layers: int
    side: int
    length: int


@dataclass(frozen=True)
class Arm:
    """What sets arms apart."""

    policy: str
    order: str = IMAGE_FIRST

    @property
    def label(self) -> str:
        return self.policy if self.order == IMAGE_FIRST else f"{self.policy}, {in_words(self.order)}"


@dataclass(frozen=True)
class Questions:
    """A family of a task, or all of the task."""

    task: str
    family: str = ALL

    @property
    def label(self) -> str:
        return self.family if self.family.startswith(self.task) else f"{self.task}: {self.family}"


Asked: TypeAlias = tuple[int, Questions]
"""Questions on pictures of so many cells a side."""


@dataclass(frozen=True)
class Measured:
    """An arm's accuracy, 0 to 1: the mean over seeds, or of one seed with Wilson's interval over questions."""

    place: Place
    arm: Arm
    questions: Questions
    estimate: Estimate


@dataclass(frozen=True)
class Difference:
    """An arm's accuracy less the baseline's (-1 to 1), paired by seed.

    With one seed in common it is paired by question, where the pairs are known, and there is no `p`.
    """

    place: Place
    arm: Arm
    baseline: Arm
    questions: Questions
    estimate: Estimate
    p: float | None


@dataclass(frozen=True)
class Gain:
    """The mean over families of an arm's relative gain on its baseline, in percent.

    Of one place over its seeds; of one backbone, the mean over its places, over its seeds; or, with neither, of all
    places: over the seeds (other runs in these places), and over the backbones (other language models).
    """

    arm: Arm
    baseline: Arm
    estimate: Estimate
    place: Place | None = None
    backbone: str | None = None

    @property
    def is_of_all(self) -> bool:
        return self.place is None and self.backbone is None


def place_of(row: ScoreRow | PairRow | YesRow) -> Place:
    return Place(row.backbone, row.connector, row.layers, row.side, row.length)


def grouped(items: Iterable[Item], key: Callable[[Item], Group]) -> dict[Group, list[Item]]:
    """The items by their key, in order of first appearance."""
    groups: defaultdict[Group, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def arms_in_order(arms: Iterable[Arm]) -> list[Arm]:
    """Each once: in the order of `mutua doctor`, which begins with causal; names that it does not know come last."""
    names = list(POLICIES)
    known = {arm: (names.index(arm.policy) if arm.policy in names else len(names)) for arm in arms}
    return sorted(known, key=lambda arm: (known[arm], arm.policy, arm.order != IMAGE_FIRST, arm.order))


def in_words(order: str) -> str:
    """An order of picture and question, stage by stage."""
    return order.replace(">", " then ")


def causal_of(arm: Arm) -> Arm:
    """What a policy is compared with: causal attention, in the same order of image and question."""
    return Arm(BASELINE, arm.order)


def image_first_of(arm: Arm) -> Arm:
    """What an order is compared with: the picture first under the same policy, in as many stages."""
    return Arm(arm.policy, TWO_STAGES if ">" in arm.order else IMAGE_FIRST)


def questions_of(rows: Iterable[ScoreRow]) -> list[Questions]:
    """Every family, and all of a task behind its families where it has several."""
    families = grouped(dict.fromkeys((row.task, row.family) for row in rows), lambda named: named[0])
    out = []
    for task, named in families.items():
        out += [Questions(task, family) for _, family in named]
        if len(named) > 1:
            out.append(Questions(task))
    return out


def asks(questions: Questions, row: ScoreRow | PairRow) -> bool:
    return row.task == questions.task and questions.family in (row.family, ALL)


def accuracies(rows: Iterable[ScoreRow]) -> list[Measured]:
    """Of every arm in every place and family; rows of one block and one split. Blind guesses are left out."""
    rows = [row for row in rows if row.policy not in NO_ARM]
    out = []
    for questions in questions_of(rows):
        asked = [row for row in rows if asks(questions, row)]
        for (place, arm), mine in grouped(asked, lambda row: (place_of(row), Arm(row.policy, row.order))).items():
            out.append(Measured(place, arm, questions, over_seeds(_shares(mine))))
    return out


def differences(
    rows: Iterable[ScoreRow], pairs: Iterable[PairRow] = (), baseline_of: Callable[[Arm], Arm] = causal_of
) -> list[Difference]:
    """Of every arm from its baseline, in every place and family where both are; rows of one block and one split.

    Raises:
        ValueError: arms of one seed were not asked the same number of questions.
    """
    rows, pairs = [row for row in rows if row.policy not in NO_ARM], list(pairs)
    out = []
    for questions in questions_of(rows):
        asked = [row for row in rows if asks(questions, row)]
        arms = grouped(asked, lambda row: (place_of(row), Arm(row.policy, row.order)))
        for (place, arm), mine in arms.items():
            baseline = baseline_of(arm)
            theirs = arms.get((place, baseline))
            if arm == baseline or theirs is None:
                continue
            one, other = _shares(mine), _shares(theirs)
            _check_same_questions(arm, baseline, place, questions, one, other)
            if not one.keys() & other.keys():
                continue
            by_seed = paired_by_seed(_values(one), _values(other))
            estimate, p = mean_of_few(by_seed), None
            if len(by_seed) > 1:
                estimate, p = _cut(estimate, -1, 1), sign_flip_test(by_seed)
            elif arm.order == baseline.order:
                (seed,) = one.keys() & other.keys()
                same = [
                    pair
                    for pair in pairs
                    if asks(questions, pair)
                    and (place_of(pair), pair.order, pair.seed) == (place, arm.order, seed)
                    and (pair.policy, pair.baseline) == (arm.policy, baseline.policy)
                ]
                counts = [sum(column) for column in zip(*(pair.counts for pair in same), strict=True)]
                if counts and sum(counts) == one[seed].total:
                    estimate = paired_proportions(*counts)
            out.append(Difference(place, arm, baseline, questions, estimate, p))
    return out


def relative_gains(rows: Iterable[ScoreRow]) -> list[Gain]:
    """Of every arm on its baseline; rows of one block and one split. Only seeds and places that both have count.

    Raises:
        ValueError: arms were not asked the same families, or a baseline scores 0 in one.
    """
    rows = [row for row in rows if row.policy not in NO_ARM]
    scores: dict[tuple[Place, Arm], dict[int, dict[str, float]]] = {}
    for row in rows:
        by_seed = scores.setdefault((place_of(row), Arm(row.policy, row.order)), {})
        by_seed.setdefault(row.seed, {})[Questions(row.task, row.family).label] = row.correct / row.total
    out = []
    for arm in arms_in_order(arm for _, arm in scores):
        baseline = causal_of(arm)
        by_place: dict[Place, dict[int, float]] = {}
        for place in sorted(place for place, other in scores if other == arm != baseline):
            one, other = scores[place, arm], scores.get((place, baseline), {})
            if shared := sorted(one.keys() & other.keys()):
                by_place[place] = {seed: relative_gain(one[seed], other[seed]) for seed in shared}
        out += [Gain(arm, baseline, mean_of_few(list(of.values())), place) for place, of in by_place.items()]
        by_backbone = {
            backbone: _mean_by_seed([by_place[place] for place in places])
            for backbone, places in grouped(by_place, lambda place: place.backbone).items()
        }
        if len(by_backbone) < len(by_place):
            of_backbones = ((backbone, of) for backbone, of in by_backbone.items() if of)
            out += [Gain(arm, baseline, mean_of_few(list(of.values())), None, name) for name, of in of_backbones]
        if len(by_backbone) > 1:
            if of_all := _mean_by_seed(list(by_place.values())):
                out.append(Gain(arm, baseline, mean_of_few(list(of_all.values()))))
            if all(by_backbone.values()):
                means = [sum(of.values()) / len(of) for of in by_backbone.values()]
                out.append(Gain(arm, baseline, mean_of_few(means, "backbones")))
    return out


def _mean_by_seed(of_places: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The mean over places by seed, for the seeds that each place has."""
    everywhere = sorted(set.intersection(*map(set, of_places)))
    return {seed: sum(gains[seed] for gains in of_places) / len(of_places) for seed in everywhere}


def over_seeds(shares: Mapping[int, Score]) -> Estimate:
    """The mean of the shares with Student's interval, as far as shares go; of one seed, with Wilson's."""
    if len(shares) > 1:
        return _cut(mean_of_few(list(_values(shares).values())), 0, 1)
    (share,) = shares.values()
    return Estimate(share.accuracy, *share.interval, share.total, "questions")


def yes_rates(rows: Iterable[YesRow]) -> list[Measured]:
    """How often each arm says yes, in the place of an accuracy; the right answers are left out."""
    key = grouped(
        (row for row in rows if row.policy not in NO_ARM),
        lambda row: (place_of(row), Arm(row.policy, row.order), Questions(row.task, row.family)),
    )
    return [
        Measured(*where, over_seeds({row.seed: Score(row.said_yes, row.total) for row in mine}))
        for where, mine in key.items()
    ]


def right_yes_rates(rows: Iterable[YesRow]) -> dict[Asked, float]:
    """How often "yes" is the right answer, as far as rows of `TRUTH` say."""
    right = (row for row in rows if row.policy == TRUTH)
    return {(row.side, Questions(row.task, row.family)): row.said_yes / row.total for row in right}


def blind_guesses(rows: Iterable[ScoreRow]) -> dict[Asked, float]:
    """What a guess scores that never sees the picture; nothing for a task where that of a family is missing."""
    rows = list(rows)
    out = {}
    for side, blind in grouped((row for row in rows if row.policy == BLIND), lambda row: row.side).items():
        for questions in questions_of(rows):
            asked = [row for row in blind if asks(questions, row)]
            families = {row.family for row in rows if asks(questions, row)}
            if asked and {row.family for row in asked} == families:
                share = Score(sum(row.correct for row in asked), sum(row.total for row in asked))
                out[side, questions] = share.accuracy
    return out


def curves(rows: Iterable[ScoreRow], questions: Questions) -> dict[tuple[Place, Arm], dict[int, list[Point]]]:
    """Learning curves by place and arm, then by seed; rows of one block and one split."""
    asked = [row for row in rows if asks(questions, row) and row.policy not in NO_ARM]
    out: dict[tuple[Place, Arm], dict[int, list[Point]]] = {}
    for (place, arm), mine in grouped(asked, lambda row: (place_of(row), Arm(row.policy, row.order))).items():
        for seed, own in grouped(mine, lambda row: row.seed).items():
            by_samples = sorted(grouped(own, lambda row: row.samples).items())
            measured = [(samples, there[0].seconds, _shares(there)[seed]) for samples, there in by_samples]
            most = max(
                share.total for _, _, share in measured
            )  # a point on some of the families is no point of this curve
            points = [
                Point(samples, seconds, share.accuracy) for samples, seconds, share in measured if share.total == most
            ]
            out.setdefault((place, arm), {})[seed] = points
    return out


def place_labels(places: Iterable[Place]) -> dict[Place, str]:
    """The backbone, and of the rest only what differs among these places."""
    places = sorted(set(places))
    shown: list[tuple[str, Callable[[Place], str]]] = [
        ("connector", lambda place: place.connector),
        ("layers", lambda place: f"{place.layers} layer{'s' * (place.layers != 1)}"),
        ("side", lambda place: f"{place.side} x {place.side} cells"),
        ("length", lambda place: f"{place.length:,} samples"),
    ]
    varied = [word for name, word in shown if len({getattr(place, name) for place in places}) > 1]
    return {place: ", ".join([place.backbone, *(word(place) for word in varied)]) for place in places}


def _shares(rows: Sequence[ScoreRow]) -> dict[int, Score]:
    """By seed, right answers out of all questions of these rows."""
    by_seed = grouped(rows, lambda row: row.seed)
    return {
        seed: Score(sum(row.correct for row in own), sum(row.total for row in own)) for seed, own in by_seed.items()
    }


def _values(shares: Mapping[int, Score]) -> dict[int, float]:
    return {seed: share.accuracy for seed, share in shares.items()}


def _check_same_questions(
    arm: Arm, baseline: Arm, place: Place, questions: Questions, one: Mapping[int, Score], other: Mapping[int, Score]
) -> None:
    for seed in sorted(one.keys() & other.keys()):
        if one[seed].total != other[seed].total:
            raise ValueError(
                f"{ScoreRow.FILE}: {arm.label} answered {one[seed].total:,} questions of {questions.label} and "
                f"{baseline.label} {other[seed].total:,} (seed {seed}, {place.backbone}, {place.connector}): they can "
                "only be compared on the same ones. Remove the rows of one and measure it again."
            )


def _cut(estimate: Estimate, low: float, high: float) -> Estimate:
    """Student's interval knows no end of the scale; where there is none, none is made."""
    if not estimate.is_bounded:
        return estimate
    return replace(estimate, low=max(estimate.low, low), high=min(estimate.high, high))
