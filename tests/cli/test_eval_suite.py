"""`mutua eval --suite paper`: all of the paper's figures from one command, offline, with a judge on this machine."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted_judge import Answer, scripted
from what_users_read import mutua

from mutua.evaluation.benchmarks import PAPER

TWELVE = (
    *("MME perception", "MME cognition", "MMBench dev en accuracy", "SEED-Bench image accuracy"),
    *("LLaVA-Bench in the wild overall", "MMMU val accuracy", "MathVista mini accuracy", "POPE F1", "MM-Vet overall"),
    *("RealWorldQA accuracy", "CV-Bench 2D", "CV-Bench 3D"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    assert mutua("eval", "fixtures", folder).exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def says(nth: int, request: dict) -> Answer:
    """As each of the five tasks wants it."""
    asked = request["messages"][-1]["content"]
    if asked.endswith(("Option:", "Meant:")):
        return Answer("A" if asked.endswith("Option:") else "Yes")
    if asked.startswith("Grade how right"):
        return Answer("0.5")
    return Answer("4 8\nthe second is better") if asked.startswith("[Context]") else Answer("1")


def files(output: Path) -> dict[str, bytes]:
    kept = [
        path for path in output.rglob("*.json*") if "predictions" not in str(path) and "judge" not in str(path.parent)
    ]
    return {str(path.relative_to(output)): path.read_bytes() for path in kept}


def test_all_twelve_from_one_command_with_a_judge(data, tmp_path):
    with scripted(says) as served:
        words = (
            "eval",
            "--suite",
            "paper",
            "--data",
            data,
            "-o",
            "all",
            "--judge",
            "judge-1",
            "--judge-url",
            served.url,
        )
        done = mutua(*words)
        assert done.exit_code == 0, done.output
        asked = len(served.requests)
        again = mutua(*words)
        assert again.stdout == done.stdout
        assert len(served.requests) == asked, "what the judge said is kept"
    for name in TWELVE:
        assert name in done.stdout
    found = json.loads(Path("all/results.json").read_text())
    assert set(found["benchmarks"]) == set(PAPER)
    assert found["benchmarks"]["mm_vet"]["figures"]["overall"]["value"] == 50.0
    assert found["benchmarks"]["llava_w"]["figures"]["overall"]["value"] == 200.0
    assert found["judge"]["versions"].keys() == {"judge-1"}
    assert found["judge"]["versions"]["judge-1"] > 0
    assert not any(one["unscored"] for one in found["benchmarks"].values())
    report = Path("all/report.md").read_text()
    assert re.search(r"- judge: `judge-1 at http://127.0.0.1:\d+/v1.* \(judge-1: \d+\)`", report)
    assert Path("all/scores.png").read_bytes().startswith(b"\x89PNG")


def test_a_judge_that_fails_leaves_samples_unscored(data):
    with scripted(lambda nth, request: Answer("no", status=401)) as served:
        words = ("eval", "--suite", "paper", "--data", data, "-o", "failed", "--tasks", "mm_vet,pope", "--limit", "3")
        done = mutua(*words, "--judge", "judge-1", "--judge-url", served.url)
    assert done.exit_code == 0, done.output
    found = json.loads(Path("failed/results.json").read_text())["benchmarks"]
    assert found["mm_vet"]["figures"]["overall"]["value"] is None
    assert sum(found["mm_vet"]["unscored"].values()) == 3
    assert "was refused" in next(iter(found["mm_vet"]["unscored"]))


def test_two_evaluations_are_compared_on_one_page(data):
    for policy in ("mma", "causal"):
        words = ("eval", "--suite", "paper", "-d", data, "--tasks", "pope,mmbench")
        assert mutua(*words, "-o", policy, "-p", policy).exit_code == 0
    done = mutua("eval", "compare", "mma", "causal", "--data", data, "-o", "page.html")
    assert done.exit_code == 0, done.output
    assert "POPE F1" in done.stdout
    page = Path("page.html").read_text()
    flipped = page.count("<article>")
    assert flipped > 0
    assert page.count('src="data:image/webp;base64,') == flipped
    assert not re.search(r'(src|href)="(?!data:)', page), "it needs no other file"
    assert mutua("eval", "compare", "mma", "mma", "-o", "same.html").exit_code == 0
    assert "<article>" not in Path("same.html").read_text()


def test_data_are_checked(data):
    done = mutua("eval", "check", "--data", data)
    assert done.exit_code == 0, done.output
    assert "10 of 10 can be asked" in done.stdout
    assert "pope: part: pope/data/test-00000-of-00001.parquet: 12 questions, of 9,000 that are published" in done.stdout
    nothing = mutua("eval", "check", "--data", ".", "--tasks", "pope,mme")
    assert nothing.exit_code == 1
    assert "pope: missing: looked for pope/data/test*.parquet or POPE.tsv" in nothing.stdout


@pytest.mark.slow
def test_killed_at_random_moments_the_command_goes_on_and_ends_in_the_same_bytes(data):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    suite = [sys.executable, "-m", "mutua", "eval", "--suite", "paper", "--data", str(data), "--batch-size", "4"]
    print("seed", seed := time.time_ns())
    random.seed(seed)
    kills = 0
    with scripted(says) as served:
        command = [*suite, "--judge", "judge-1", "--judge-url", served.url, "-o"]
        subprocess.run([*command, "unbroken"], env=environment, check=True, capture_output=True)
        for _ in range(40):
            running = subprocess.Popen(
                [*command, "killed"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            until = _written(Path("killed")) + random.randint(1, 16)
            while running.poll() is None and _written(Path("killed")) < until:
                time.sleep(0.005)
            if running.poll() is not None:
                break
            running.send_signal(signal.SIGKILL)
            running.wait()
            kills += 1
    assert running.returncode == 0
    assert kills > 3
    assert files(Path("killed")) == files(Path("unbroken"))


def _written(output: Path) -> int:
    """Replies of the model, and answers of the judge."""
    replies = sum(path.read_bytes().count(b"\n") for path in output.glob("predictions/*.jsonl"))
    return replies + sum(1 for _ in output.glob("judge/*.json"))


@pytest.mark.slow
def test_two_processes_of_torchrun_end_in_the_same_bytes(data):
    words = ["eval", "--suite", "paper", "--data", str(data), "--batch-size", "4", "--tasks", "pope,mme", "-o"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--module", "mutua"]
    for start, output in (([sys.executable, "-m", "mutua"], "one"), (torchrun, "two")):
        subprocess.run([*start, *words, output], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    assert files(Path("two")) == files(Path("one"))
    assert (Path("two/predictions/pope.1.jsonl")).is_file()
