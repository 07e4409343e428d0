"""What becomes of the measurements of arms in a study's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mutua.study import collect
from mutua.study.collect import write_rows_of
from mutua.study.plan import Arm, Block, Plan, full_plan
from mutua.study.recipes import BATCH, stage_recipes
from mutua.study.results import BLIND, WITH_CURVES, CostRow, PairRow, ScoreRow, read_rows

STEPS = {  # milliseconds of a step, by policy and seed: the causal arm of seed 1 shared its core
    "causal": (200.0, 900.0, 210.0),
    "mma": (100.0, 110.0, 120.0),
}


@pytest.fixture(autouse=True)
def _few_questions_for_the_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "_FITTED", 60)


def measured(step_ms: float) -> dict[str, Any]:
    point = {"samples": 1280, "seconds": 3.0, "task": "grid", "family": "exists", "correct": 5, "total": 10}
    record = {"id": "1", "family": "exists", "question": "any?", "expected": "yes", "answer": "yes", "is_cut": False}
    cost = {"step_ms": step_ms, "peak_mib": 1.0, "gflops_per_sample": 1.0}
    return {"curve": [point, {**point, "samples": 2560}], "tests": {"grid": [record]}, "looks": [], "cost": cost}


def test_seconds_are_those_of_the_median_step_over_seeds(tmp_path: Path) -> None:
    arms = {Arm(policy, seed): measured(ms) for policy, of in STEPS.items() for seed, ms in enumerate(of)}
    write_rows_of(Plan((Block("policies", tuple(arms)),)), arms, tmp_path)
    rows = [row for row in read_rows(tmp_path, ScoreRow) if row.policy != BLIND]
    seconds = {(row.policy, row.samples, row.split): row.seconds for row in rows}
    assert seconds == {
        ("causal", 1280, "validation"): pytest.approx(2.1),
        ("causal", 2560, "validation"): pytest.approx(4.2),
        ("causal", 102_400, "test"): pytest.approx(168),
        ("mma", 1280, "validation"): pytest.approx(1.1),
        ("mma", 2560, "validation"): pytest.approx(2.2),
        ("mma", 102_400, "test"): pytest.approx(88),
    }


def as_trained(arm: Arm) -> dict[str, Any]:
    """With a learning curve where the recipes of an arm evaluate."""
    of_arm, before = measured(100.0), 0
    of_arm["curve"], point = [], measured(100.0)["curve"][0]
    for recipe in stage_recipes(arm, Path("anywhere"), Path("encoder")):
        steps = range(recipe.evaluate.every, recipe.train.steps + 1, recipe.evaluate.every)
        of_arm["curve"] += [{**point, "samples": before + step * BATCH[arm.task]} for step in steps]
        before += recipe.train.steps * BATCH[arm.task]
    return of_arm


def test_a_whole_study_has_a_row_for_each_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arms of other lengths are met at the same number of samples, and are told apart."""
    monkeypatch.setattr(collect, "_blind", lambda *arms: ())  # of questions that none of these was asked
    plan = full_plan()
    write_rows_of(plan, {arm: as_trained(arm) for arm in plan.arms}, tmp_path)
    rows = read_rows(tmp_path, ScoreRow)
    shared = [row for row in rows if (row.block, row.samples, row.seed, row.policy) == ("length", 61_440, 0, "mma")]
    assert [row.length for row in shared] == [102_400, 614_400]
    assert {row.block for row in rows if row.split == "validation"} == set(WITH_CURVES)
    assert {row.block for row in read_rows(tmp_path, PairRow)} == {block.name for block in plan.blocks}


def test_arms_asked_other_questions_are_not_paired(tmp_path: Path) -> None:
    arms = {Arm("causal"): measured(100.0), Arm("mma"): measured(100.0)}
    arms[Arm("mma")]["tests"]["grid"][0]["id"] = "2"
    with pytest.raises(
        ValueError, match="mma-seed-0 and causal-seed-0 were not asked the same questions of grid, exists"
    ):
        write_rows_of(Plan((Block("policies", tuple(arms)),)), arms, tmp_path)


def test_blind_guesses_are_of_the_pictures_that_were_asked_about(tmp_path: Path) -> None:
    arms = {Arm(policy, side=side): measured(100.0) for side in (4, 5) for policy in ("causal", "mma")}
    write_rows_of(Plan((Block("image tokens", tuple(arms)),)), arms, tmp_path)
    blind = [row for row in read_rows(tmp_path, ScoreRow) if row.policy == BLIND]
    assert [row.side for row in blind] == [4, 5]


def test_costs_are_of_the_usual_length_and_of_processes_that_trained(tmp_path: Path) -> None:
    arms = {
        Arm("causal", seed, steps=steps): measured(ms) for seed, steps, ms in ((0, 800, 10), (1, 800, 30), (0, 4800, 1))
    }
    arms[Arm("causal", 1)]["cost"]["peak_mib"] = None
    write_rows_of(Plan((Block("main", tuple(arms)),)), arms, tmp_path)
    (row,) = read_rows(tmp_path, CostRow)
    assert (row.seeds, row.step_ms, row.fastest_ms, row.slowest_ms, row.peak_mib) == (2, 20.0, 10.0, 30.0, 1.0)
    nowhere = {arm: {**found, "cost": {**found["cost"], "peak_mib": None}} for arm, found in arms.items()}
    write_rows_of(Plan((Block("main", tuple(arms)),)), nowhere, tmp_path)
    assert read_rows(tmp_path, CostRow)[0].peak_mib is None
