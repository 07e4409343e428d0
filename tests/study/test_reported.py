"""What README and docs/study.md say of the full study is what its rows say."""

from __future__ import annotations

from pathlib import Path

from mutua.evaluation import words
from mutua.study.results import MAIN, PairRow, ScoreRow, read_rows
from mutua.study.summary import Questions, accuracies, differences, place_labels, relative_gains

ROOT = Path(__file__).parents[2]
FULL = ROOT / "docs/study/full"
SHOWN = (Questions("grid", "exists"), Questions("pope"), Questions("grid", "relation"))


def test_the_table_of_the_readme() -> None:
    rows = [row for row in read_rows(FULL, ScoreRow) if (row.block, row.split) == (MAIN, "test")]
    accuracy = {(one.place, one.arm.policy, one.questions): one.estimate.value for one in accuracies(rows)}
    difference = {(one.place, one.questions): one.estimate for one in differences(rows, read_rows(FULL, PairRow))}
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
    assert f"{words.percents(trained)} over the three families that were trained on" in " ".join(readme.split())
    study = " ".join((ROOT / "docs/study.md").read_text(encoding="utf-8").split())
    assert f"relative gain of {over_seeds.value:+.1f} % ({_between(over_seeds)} over the seeds" in study
    assert f"{_between(over_backbones)} over the three backbones" in study


def _between(estimate) -> str:
    return f"{estimate.low:+.1f} to {estimate.high:+.1f}"
