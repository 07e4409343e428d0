"""What becomes of the measurements of arms in a study's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mutua.study.collect import write_rows_of
from mutua.study.plan import Arm, Block, Plan
from mutua.study.results import ScoreRow, read_rows

STEPS = {  # milliseconds of a step, by policy and seed: the causal arm of seed 1 shared its core
    "causal": (200.0, 900.0, 210.0),
    "mma": (100.0, 110.0, 120.0),
}


def measured(step_ms: float) -> dict[str, Any]:
    point = {"samples": 1280, "seconds": 3.0, "task": "grid", "family": "exists", "correct": 5, "total": 10}
    record = {"id": "1", "family": "exists", "question": "any?", "expected": "yes", "answer": "yes", "is_cut": False}
    cost = {"step_ms": step_ms, "peak_mib": 1.0, "gflops_per_sample": 1.0}
    return {"curve": [point, {**point, "samples": 2560}], "tests": {"grid": [record]}, "looks": [], "cost": cost}


def test_seconds_are_those_of_the_median_step_over_seeds(tmp_path: Path) -> None:
    arms = {Arm(policy, seed): measured(ms) for policy, of in STEPS.items() for seed, ms in enumerate(of)}
    write_rows_of(Plan((Block("policies", tuple(arms)),)), arms, tmp_path)
    seconds = {(row.policy, row.samples, row.split): row.seconds for row in read_rows(tmp_path, ScoreRow)}
    assert seconds == {
        ("causal", 1280, "validation"): pytest.approx(2.1),
        ("causal", 2560, "validation"): pytest.approx(4.2),
        ("causal", 2560, "test"): pytest.approx(4.2),
        ("mma", 1280, "validation"): pytest.approx(1.1),
        ("mma", 2560, "validation"): pytest.approx(2.2),
        ("mma", 2560, "test"): pytest.approx(2.2),
    }
