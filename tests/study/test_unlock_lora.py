"""`benchmarks/unlock_lora.py`: what it says of given scores, what docs/unlock.md says by it, and all of it in small."""

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


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("unlock_lora_report")


def rows(report: Any, right: dict[str, tuple[int, ...]], split: str = "test") -> list[Any]:
    """Of 100 questions of two families each; `right`, by arm, of each seed. An earlier row is not the last word."""
    made = []
    for arm, by_seed in right.items():
        for seed, correct in enumerate(by_seed):
            for samples, some in ((10, 0), (20, correct)):
                made += [report.ScoreRow(seed, arm, split, samples, family, some, 100) for family in ("one", "two")]
    return made


SCORES = {"causal": (60, 50), "untrained": (40, 40), "lora-causal": (62, 55), "lora-mma": (75, 80), "mma": (80, 90)}


def test_the_share_of_the_gap(report: Any, tmp_path: Path) -> None:
    told = report.report(tmp_path, rows(report, SCORES))
    assert "| gap: MMA less causal, both from the start, points | +30.0 (-97.1 to +157.1) | +20.0 | +40.0 |" in told
    assert "| share of the gap closed by LoRA unlocked | 75.0 % (75.0 to 75.0) | 75 % | 75 % |" in told
    assert "| share of the gap closed beyond the control | 63.7 % (47.9 to 79.6) | 65 % | 62 % |" in told
    assert (tmp_path / "unlock-lora.svg").is_file()


def test_no_gap_and_one_seed(report: Any, tmp_path: Path) -> None:
    told = report.report(tmp_path, rows(report, {arm: (50,) for arm in SCORES}, split="validation"))
    assert "| causal from the start | 50.0 % | 50.0 | 50.0 | 50.0 |" in told
    assert "| share of the gap closed by LoRA unlocked | no gap | no gap |" in told


def test_the_page_says_what_the_rows_say(report: Any, tmp_path: Path) -> None:
    told = report.report(tmp_path, read_rows(ROOT / "docs/study", report.ScoreRow))
    page = (ROOT / "docs/unlock.md").read_text(encoding="utf-8")
    for table in told.split("\n\n"):
        assert table in page


@pytest.mark.slow
def test_all_of_it_in_small_and_again_with_nothing_left_to_do(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/unlock_lora.py"), "--quick", "--seeds", "0", "--out", "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    changed = []
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "| causal, then unlocked, not trained |" in done.stdout
        changed.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")})
    assert "now" not in done.stdout
    assert changed[0] == changed[1] != {}
    command[2:3] = ["--steps", "5"]  # in the place of --quick
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1
    assert "but the run in out/tower/captions has" in done.stderr
