"""A study in real processes, killed in the middle: its arms stop by themselves, saved, and it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

STUDY = """
import sys
from pathlib import Path
from mutua.study import recipes
from mutua.study.plan import Arm, Block, Plan
from mutua.study.run import run_study

arms = tuple(Arm(policy, steps=60) for policy in ("causal", "mma"))
print(run_study(Plan((Block("main", arms),)), Path(sys.argv[1]), lambda line: print(line, file=sys.stderr, flush=True)))
"""


def start(folder) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", STUDY, str(folder)], stdout=subprocess.PIPE, text=True)


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.2)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_and_started_again(how, tmp_path):
    study = start(tmp_path)
    logs = [tmp_path / "runs" / f"steps-60-{policy}-seed-0" / "stage-1" / "log.jsonl" for policy in ("causal", "mma")]
    wait_for(lambda: all(log.is_file() and log.read_text() for log in logs), 300)
    os.kill(study.pid, how)
    assert study.wait(90) != 0

    def is_running() -> bool:
        return (
            subprocess.run(["pgrep", "-f", f"mutua.study.work {tmp_path}"], stdout=subprocess.DEVNULL).returncode == 0
        )

    wait_for(lambda: not is_running(), 60)
    for log in logs:
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        assert any((log.parent / "checkpoints").glob("step-*")) or steps[-1] == 60

    again = start(tmp_path)
    assert again.communicate(timeout=400)[0].strip() == str(tmp_path / "report.html")
    assert again.returncode == 0
    for log in logs:
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        assert steps == sorted(set(steps))
        assert steps[-1] == 60
