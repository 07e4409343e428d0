"""Runs that are killed at any moment, again and again: what they end with is what an unbroken run ends with."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_runs import expect_equal, lines

from mutua.training import Recipe, train

# Two sources, packed, with dropout, dual order and flips: everything that decides a batch.
OVERRIDES = (
    *(
        "train.steps=200",
        "train.checkpoint_every=2",
        "train.batch_size=6",
        "train.micro_batch_size=2",
        "train.workers=1",
    ),
    *("data.packing={tokens: 90}", "data.order=both", "data.train.1.flip=0.5", "evaluate.every=30"),
)
KILLS = 20


def start(recipe: Recipe, folder: Path) -> subprocess.Popen[bytes]:
    path = folder / "small.yaml"
    own = (f"output={recipe.output}", f"train.async_checkpoints={recipe.train.async_checkpoints}")
    words = [word for override in (*OVERRIDES, *own) for word in ("--set", override)]
    return subprocess.Popen(
        [sys.executable, "-m", "mutua", "train", str(path), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def steps_logged(run: Path) -> int:
    log = run / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True])
def test_killed_at_twenty_random_points_a_run_ends_as_it_would_have(recipe_in, tmp_path: Path, beside: bool) -> None:
    whole = recipe_in(tmp_path, *OVERRIDES, f"output={tmp_path / 'whole'}")
    train(whole)
    killed = recipe_in(tmp_path, *OVERRIDES, f"output={tmp_path / 'killed'}", f"train.async_checkpoints={beside}")
    chance, kills = random.Random(0), 0
    process = start(killed, tmp_path)
    while process.poll() is None:
        reached = steps_logged(killed.output)
        # Anywhere in the next few steps: in a step, in a checkpoint's writing, in an evaluation.
        target = reached + chance.randint(1, 4)
        while process.poll() is None and steps_logged(killed.output) < target:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.15)
        if kills < KILLS and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            process = start(killed, tmp_path)
            time.sleep(chance.choice([0.0, 0.0, 0.5, 3.0]))
    assert process.returncode == 0
    assert kills == KILLS
    assert len(lines(killed.output)) == 200
    expect_equal(killed.output, whole.output)
