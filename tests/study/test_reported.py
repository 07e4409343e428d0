"""What README and docs/study.md say of the full study is what its rows say."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from mutua.evaluation import words
from mutua.study.plan import ORDERS, full_plan
from mutua.study.results import MAIN, NULL, PairRow, Row, ScoreRow, read_rows
from mutua.study.sections import score_sections
from mutua.study.summary import Questions, accuracies, differences, place_labels, relative_gains

ROOT = Path(__file__).parents[2]
FULL = ROOT / "docs/study/full"
NULL_SHUFFLED = f"{NULL}shuffled questions"
ATTRIBUTE, EXISTS, RELATION = (Questions("grid", family) for family in ("attribute", "exists", "relation"))
SHOWN = (EXISTS, Questions("pope"), RELATION)


def test_the_table_of_the_readme() -> None:
    rows = [row for row in _read(ScoreRow) if (row.block, row.split) == (MAIN, "test")]
    accuracy = {(one.place, one.arm.policy, one.questions): one.estimate.value for one in accuracies(rows)}
    difference = {(one.place, one.questions): one.estimate for one in differences(rows, _read(PairRow))}
    gains = relative_gains(rows)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    by_place = {gain.place: gain.estimate for gain in gains if gain.place is not None}
    for place, label in place_labels(by_place).items():
        cells = [label]
        for questions in SHOWN:
            before, after = (100 * accuracy[place, policy, questions] for policy in ("causal", "mma"))
            cells.append(f"{before:.1f} → {after:.1f} %: {words.points(difference[place, questions])}")
        assert f"| {' | '.join([*cells, words.percents(by_place[place])])} |" in readme
    over_seeds, over_backbones = (gain.estimate for gain in gains if gain.is_of_all)
    trained, _ = (gain.estimate for gain in relative_gains([r for r in rows if r.task == "grid"]) if gain.is_of_all)
    assert f"| **all six** | | | | **{words.percents(over_seeds)}** |" in readme
    assert f"| all six, over the three families that were trained on | | | | {words.percents(trained)} |" in readme
    seen = [one.estimate for one in differences(rows, _read(PairRow)) if one.questions == ATTRIBUTE]
    low, high = (f"{100 * pick(one.value for one in seen):+.1f}" for pick in (min, max))
    assert f"which both learn ({low} to {high} points, every interval holds 0)" in readme
    assert not any(one.excludes_zero for one in seen)
    study = " ".join((ROOT / "docs/study.md").read_text(encoding="utf-8").split())
    assert f"relative gain of {over_seeds.value:+.1f} % ({_between(over_seeds)} over the seeds" in study
    assert f"{_between(over_backbones)} over the three backbones" in study


def test_what_the_readme_says_beside_its_table() -> None:
    scores, pairs = _read(ScoreRow), _read(PairRow)
    said = [text for section in score_sections(scores, pairs, {}) for text in section.sentences]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    counts = [re.search(r"mma: of (\d+) intervals .*? (\d+) lie above 0, (\d+) below", text) for text in said]
    main, shuffled, _ = (tuple(map(int, found.groups())) for found in counts if found)
    assert (
        f"of {main[0]} intervals over questions (6 models, 5 seeds, 6 families) {main[1]} lie above 0 and none"
        in readme
    )
    assert main[2] == 0
    assert f"{shuffled[1] + shuffled[2]} of {shuffled[0]} leave out 0, too" in readme
    sooner = re.search(r"after (\d+ to \d+ %) of the samples", "\n".join(said))
    assert f"final accuracy after {sooner[1]} of the samples" in readme
    shuffled_rows = [row for row in scores if (row.block, row.split) == (NULL_SHUFFLED, "test")]
    (null,) = (one.estimate for one in differences(shuffled_rows) if one.questions == Questions("grid"))
    value, low, high = (f"{100 * share:+.1f}" for share in (null.value, null.low, null.high))
    assert f"{value} points ({low} to {high}) with questions shuffled between the pictures" in readme
    about = json.loads((FULL / "study.json").read_text())
    left = len(full_plan().arms) - about["measured"]
    assert not left or f"{left} of {len(full_plan().arms)} models" in readme


def _between(estimate) -> str:
    return f"{estimate.low:+.1f} to {estimate.high:+.1f}"


def test_what_the_study_says_of_its_sweeps() -> None:
    study = " ".join((ROOT / "docs/study.md").read_text(encoding="utf-8").split())
    for block, words_of in (
        ("depth", lambda place: f"{place.layers} layers "),
        ("image tokens", lambda place: ""),
    ):
        rows = [row for row in _read(ScoreRow) if (row.block, row.split) == (block, "test")]
        of = {(one.place, one.arm.policy): one.estimate.value for one in accuracies(rows) if one.questions == EXISTS}
        for place in sorted({place for place, _ in of}):
            if place.layers > 1:  # with one the two are the same
                before, after = (_short(of[place, policy]) for policy in ("causal", "mma"))
                assert f"{words_of(place)}{before} → {after}" in study
    policies = [row for row in _read(ScoreRow) if (row.block, row.split) == ("policies", "test")]
    gained = [one.estimate for one in differences(rows) if one.questions == EXISTS]  # by visual tokens
    relation = [f"{100 * one.estimate.value:+.1f}" for one in differences(rows) if one.questions == RELATION]
    *first, last = (f"{100 * gain.value:+.1f}" for gain in gained)
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{', '.join(first)} and {last} points (three seeds; an interval leaves out 0 at 25 and 36)" in readme
    assert f"does not follow: {', '.join(relation[:-1])} and {relation[-1]}." in readme
    assert [gain.excludes_zero for gain in gained] == [False, False, False, True, True]
    of = {one.arm.policy: one.estimate.value for one in accuracies(policies) if one.questions == Questions("grid")}
    causal, mma, prefix, concentric = (_short(of[policy]) for policy in ("causal", "mma", "prefix", "concentric"))
    assert f"causal {causal} %, `mma` {mma}, `mma-bidirectional` and `future` {_short(of['future'])}" in study
    assert f"`prefix` {prefix}, `concentric` {concentric}." in study


def _short(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


@cache
def _read(kind: type[Row]) -> list:
    return read_rows(FULL, kind)


def _rows(block: str) -> list[ScoreRow]:
    return [row for row in _read(ScoreRow) if (row.block, row.split) == (block, "test")]


def _page(path: str) -> str:
    return " ".join((ROOT / path).read_text(encoding="utf-8").split())


def test_what_is_said_of_length() -> None:
    readme, study, rows = _page("README.md"), _page("docs/study.md"), _rows("length")
    longest = max(row.length for row in rows)
    last = [row for row in rows if row.length == longest]
    assert {row.correct == row.total for row in last if row.family != "relation"} == {True}
    seen = {(row.policy, row.seed): f"{100 * row.correct / row.total:.0f}" for row in last if row.family == "relation"}
    mma, causal = ([seen[policy, seed] for seed in range(3)] for policy in ("mma", "causal"))
    assert f"({', '.join(mma)} %), causal attention in none ({', '.join(causal)}): " in study
    assert f"{mma[0]}, {mma[1]} and {mma[2]} % in its three seeds, where causal" in readme
    assert f"at {causal[0]}, {causal[1]} and {causal[2]}: " in readme
    (gain,) = (one.estimate for one in differences(last) if one.questions == RELATION)
    for page in (readme, study):
        assert f"({longest:,})" in page
        assert f"{words.points(gain).replace(' (', ' points (')}, no difference seen over three seeds" in page
    assert not gain.excludes_zero


def test_what_is_said_of_orders() -> None:
    readme, study, rows = _page("README.md"), _page("docs/study.md"), _rows("order")
    exists = {
        (one.arm.policy, one.arm.order): _short(one.estimate.value)
        for one in accuracies(rows)
        if one.questions == EXISTS
    }
    assert {exists["mma", order] for order in ORDERS if order != "text-first"} == {"100"}
    first, _, both, twice, early, late = (exists["causal", order] for order in ORDERS)
    assert f"{first} % with the picture first, {both} with both, {early} and {late} with both in the first" in study
    assert f"({twice} with the picture first in two stages)" in study
    assert f'{both} % in "any red circle?", {first} with the picture always first, 100 under MMA in either' in readme
    gains = [one for one in differences(rows) if one.questions == Questions("grid") and one.arm.order == "both"]
    (gain,) = (one.estimate for one in gains if one.baseline.order == "both")
    told = words.points(gain).replace(" (", " points over the three families (")
    assert f"{told} where both are trained on both orders" in study


def test_what_is_said_of_scenes() -> None:
    gains = {one.questions: one.estimate for one in differences(_rows("scenes"))}
    scenes, easy = (words.points(gains[Questions(task)]) for task in ("scenes", "easy-vqa"))
    assert f"no difference, {scenes.replace(' (', ' points (')} and {easy}" in _page("docs/study.md")
    inside = "; ".join(gain.replace(" (", f"{unit}, ").rstrip(")") for gain, unit in ((scenes, " points"), (easy, "")))
    assert f"by then ({inside})" in _page("README.md")
