"""Studies so small that a test can run them, in the test's own process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mutua.study import collect, recipes, work
from mutua.study.pool import Job
from mutua.training import load_recipe, train


@pytest.fixture
def small(monkeypatch) -> None:
    """A few questions of each split, few samples a step."""
    monkeypatch.setattr(recipes, "_VALIDATION_SIZE", 6)
    monkeypatch.setattr(recipes, "TEST_SIZE", 12)
    for task in recipes.BATCH:
        monkeypatch.setitem(recipes.BATCH, task, 6)
    monkeypatch.setattr(recipes, "ENCODER_STEPS", {"grid": 2, "scenes": 2})
    monkeypatch.setattr(work, "_LOOKS", 6)
    monkeypatch.setattr(collect, "_FITTED", 60)


@pytest.fixture
def in_this_process() -> Callable[..., None]:
    """Stands in for `run_jobs`: no process, and so no seconds of imports, for each job."""

    def run(jobs: Sequence[Job], processes: int, watch: Any) -> None:
        for number, job in enumerate(jobs):
            watch([job], number)
            if job.arguments[0] == "mutua":
                train(load_recipe(job.arguments[2]))
            elif job.arguments[1] == "encoder":
                work.run_encoder(job.arguments[2], int(job.arguments[3]), Path(job.arguments[4]))  # type: ignore[arg-type]
            else:
                work.run_arm(Path(job.arguments[1]))

    return run
