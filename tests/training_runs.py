"""Runs that are disturbed, in a process of their own or in this one, and how to compare them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mutua.training.batches import StepBatch
from mutua.training.step import StepMetrics, Stepper

# A run of its own process that gets a signal during a step. Ctrl-C in a terminal goes to the whole process group, data
# workers included; kill -9 to the one process.
CHILD = """
import os, signal, sys
from mutua.training import load_recipe, train
from mutua.training.step import Stepper
original = Stepper.update
def update(self, index, *rest):
    metrics = original(self, index, *rest)
    if index == int(sys.argv[2]):
        send = os.kill if sys.argv[3] == "SIGKILL" else os.killpg
        send(os.getpid(), getattr(signal, sys.argv[3]))
    return metrics
Stepper.update = update
sys.exit(130 if train(load_recipe(sys.argv[1], sys.argv[4:])).interrupted else 0)
"""


def child(recipe: Path, index: int, name: str, *overrides: str) -> tuple[int, str]:
    """Exit status and output. Through a file: a pipe would be held open by data workers, which die a little later."""
    told = recipe.with_name("told.txt")
    with told.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(recipe), str(index), name, *overrides],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
    return done.returncode, told.read_text()


def lines(run: Path, name: str = "log.jsonl") -> list[dict[str, Any]]:
    """A log, without what depends on the clock."""
    parsed = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("samples_per_second", "seconds")} for line in parsed]


def expect_resumed(told: Console | str) -> None:
    """Runs are deterministic, so one that starts over ends in the same bytes: this one went on from a checkpoint."""
    text = told if isinstance(told, str) else told.file.getvalue()  # type: ignore[attr-defined]
    assert "Resuming from" in text, text


def do_step(stepper: Stepper, index: int, batch: StepBatch) -> StepMetrics | None:
    """One step of training, as the loop does it."""
    return stepper.update(index, batch, *stepper.backward(batch))


def at_step(monkeypatch: pytest.MonkeyPatch, index: int, act: Callable[[Stepper], None]) -> None:
    """Runs `act` after a step, once."""
    original = Stepper.update
    due = {index}

    def update(self: Stepper, current: int, *rest: Any) -> Any:
        metrics = original(self, current, *rest)
        if current in due:
            due.remove(current)
            act(self)
        return metrics

    monkeypatch.setattr(Stepper, "update", update)


def expect_equal(run: Path, reference: Path) -> None:
    assert lines(run) == lines(reference)
    assert lines(run, "evaluations.jsonl") == lines(reference, "evaluations.jsonl")
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (reference / weights).read_bytes()
