"""`benchmarks/smollm2.py`: what docs/compose.md says by its rows, and all of it with a small model."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mutua.study.results import read_rows

ROOT = Path(__file__).parents[2]
RECIPE = """
name: small
output: runs/small
model: {preset: tiny}
data: {train: [{source: {type: easy-vqa, split: train}}], tokenizer_texts: 100}
train: {steps: 1, batch_size: 4, learning_rate: 1.0e-3, precision: fp32, workers: 0}
"""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("smollm2")


def rows(benchmark: Any, right: dict[str, tuple[int, ...]]) -> list[Any]:
    """Of 100 questions of two families each; `right`, by policy, of each seed; on the way, half of it."""
    return [
        benchmark.ScoreRow(seed, policy, asked, samples, family, correct * samples // 20, 100)
        for policy, by_seed in right.items()
        for seed, correct in enumerate(by_seed)
        for asked, samples in ((benchmark.CURVE, 10), (benchmark.CURVE, 20), (benchmark.END, 20))
        for family in ("one", "two")
    ]


def test_means_and_the_difference_by_seed(benchmark: Any, tmp_path: Path) -> None:
    told = benchmark.report(tmp_path, rows(benchmark, {"causal": (50, 60), "mma": (60, 72)}))
    assert "| all | 200 | 55.0 % | 66.0 % | +11.0 (-1.7 to +23.7) |" in told
    assert (tmp_path / "smollm2.svg").is_file()


def test_one_seed_has_no_interval(benchmark: Any, tmp_path: Path) -> None:
    told = benchmark.report(tmp_path, rows(benchmark, {"causal": (50,), "mma": (40,)}))
    assert "| one | 100 | 50.0 % | 40.0 % | -10.0 |" in told


def test_the_page_says_what_the_rows_say(benchmark: Any, tmp_path: Path) -> None:
    told = benchmark.report(tmp_path, read_rows(ROOT / "docs/study", benchmark.ScoreRow))
    assert told in (ROOT / "docs/compose.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_all_of_it_in_small_and_again_with_nothing_left_to_do(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    words = ["--recipe", "small.yaml", "--seeds", "0", "--steps", "6", "--out", "out"]
    command = [sys.executable, str(ROOT / "benchmarks/smollm2.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    changed = []
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "| all | 9,673 |" in done.stdout
        changed.append({path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")})
    assert "now" not in done.stdout
    assert len(changed[0]) >= 2
    assert changed[0] == changed[1]
    words[words.index("--steps") + 1] = "4"
    command = [sys.executable, str(ROOT / "benchmarks/smollm2.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("train.steps: 4, but the run in out/causal-0 has 6")
