"""How fast the packaged model answers a benchmark: by `mutua eval --suite`, and as a model of lmms-eval.

Whole commands, one after the other, each with all questions and with one in ten: the difference is what the questions
take, without imports and start. The questions are those of scenes that have yes or no for an answer, laid out as POPE.
Needs an environment with lmms-eval (`make .venv-harness/lmms-eval/.ready`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mutua.data.readers import Scenes
from mutua.evaluation.harness.lmms_eval_tasks import write_tasks

EXAMPLES = """examples:
  .venv-harness/lmms-eval/bin/python benchmarks/evaluation.py                   2,000 questions, some minutes
  .venv-harness/lmms-eval/bin/python benchmarks/evaluation.py --questions 500 --threads 1
"""


def write_pope(folder: Path, questions: int) -> None:
    """Held-out questions and their pictures in POPE's columns."""
    from datasets import Dataset, Features, Image, Value

    scenes = Scenes("test", questions, families=["exists"])
    texts = dict.fromkeys(("id", "question_id", "question", "answer", "image_source", "category"), Value("string"))
    rows = []
    for number in range(questions):
        sample = scenes[number]
        picture = sample.prompt()[0]["content"][0]["image"]
        names = {"id": str(number), "question_id": str(number), "image_source": sample.id, "category": "random"}
        rows.append({**names, "question": sample.question, "answer": sample.answer, "image": picture})
    folder.mkdir(parents=True)
    Dataset.from_list(rows, features=Features({**texts, "image": Image()})).to_parquet(folder / "test-0.parquet")


def run(command: list[str], folder: Path, threads: int) -> tuple[float, float]:
    """Seconds, and peak memory in MiB: at most, as what this process held when it started that one counts, too."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    with (folder / "told.txt").open("w") as told:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **offline}, stdout=told, stderr=told)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit((folder / "told.txt").read_text()[-2000:])
    return time.perf_counter() - start, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if find_spec("lmms_eval") is None:
        parser.error("lmms-eval is not installed here: run this in the environment that `make test-harness` makes.")
    console, seconds, peaks = Console(), {}, {}
    with tempfile.TemporaryDirectory() as place:
        for share in (1, 10):
            folder = Path(place) / str(share)
            write_pope(folder / "data/pope/data", options.questions // share)
            write_tasks(folder / "data", folder / "tasks")
            ours = [sys.executable, "-m", "mutua", "eval", "--suite", "paper", "--tasks", "pope", "--data", "data"]
            theirs = [sys.executable, "-m", "lmms_eval", "eval", "--model", "mutua", "--include_path", "tasks"]
            theirs += ["--tasks", "pope_local", "--device", "cpu", "--output_path", "out", "--log_samples"]
            commands = {
                "mutua eval": [*ours, "-o", "ours"],
                "lmms-eval, a question at a time (its default)": [*theirs, "--batch_size", "1"],
                "lmms-eval, 64 at a time": [*theirs, "--batch_size", "64"],
            }
            for name, command in commands.items():
                console.print(f"{name}: {options.questions // share:,} questions", style="dim")
                seconds[name, share], peaks[name, share] = run(command, folder, options.threads)
    if blurred := [name for name in commands if seconds[name, 1] <= seconds[name, 10]]:
        sys.exit(f"{', '.join(blurred)}: all took no longer than one in ten: ask more --questions, on an idle machine.")
    table = Table("", "whole command, s", "questions / s", "times", "peak MiB (at most)")
    asked = options.questions - options.questions // 10
    rates = {name: asked / (seconds[name, 1] - seconds[name, 10]) for name in commands}
    for name, rate in rates.items():
        times = rates["mutua eval"] / rate
        table.add_row(name, f"{seconds[name, 1]:.0f}", f"{rate:.0f}", f"{times:.1f}", f"{peaks[name, 1]:,.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
