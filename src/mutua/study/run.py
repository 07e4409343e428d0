"""A study from its plan to its report. What is in its folder already is not done again."""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from mutua.folders import whole_file
from mutua.study.collect import write_rows_of
from mutua.study.plan import Arm, Plan
from mutua.study.pool import Job, JobError, run_jobs, slots
from mutua.study.progress import Lines, duration, steps_done
from mutua.study.recipes import stage_recipes
from mutua.study.report import write_report
from mutua.study.work import MEASURED, arm_job, read_arm, write_arm
from mutua.training import load_recipe
from mutua.training.run_folder import first_difference

_WHERE = ("output", "model.vision", "model.path")  # keys of a recipe that change where a study is moved
_TOKENS_OF_TEXT = 11  # of a question and its answer, with what the chat template adds


def run_study(plan: Plan, folder: Path, say: Callable[[str], None], processes: int | None = None) -> Path:
    """Trains and measures what of the plan is missing in the folder, and writes the report; its path.

    Args:
        say: takes a line of progress, one every so often.
        processes: how many arms are trained at once; None: one for each core or GPU.

    Raises:
        ValueError: an arm in the folder is another one of that name, or was trained by another recipe.
        JobError: arms failed. The report has the others.
        KeyboardInterrupt: what was stopped is saved; the report has what is measured, and the same call goes on.
    """
    arms = [arm for arm in plan.arms if not _is_measured(folder, arm)]
    encoders = dict.fromkeys((arm.task, arm.side) for arm in arms)
    jobs = [_encoder_job(folder, *which) for which in encoders if not (_encoder(folder, *which) / "model").is_dir()]
    workers = processes or slots()
    show = _Progress(folder, arms, workers, say)
    failed: Sequence[str] = ()
    try:
        run_jobs(jobs, workers, show.encoders)
        for arm in arms:
            write_arm(_place(folder, arm), arm, _encoder(folder, arm.task, arm.side) / "model")
        run_jobs([arm_job(_place(folder, arm), arm.name) for arm in arms], workers, show.arms)
    except JobError as error:
        failed = error.names
        raise
    finally:
        report = _report(plan, folder, failed)
    return report


def _place(folder: Path, arm: Arm) -> Path:
    return folder / "runs" / arm.name


def _encoder(folder: Path, task: str, side: int) -> Path:
    return folder / "encoders" / f"{task}-{side}"


def _encoder_job(folder: Path, task: str, side: int) -> Job:
    place = _encoder(folder, task, side)
    # Its log stands beside the run's folder, which takes no files of others.
    return Job(
        f"encoder {task} {side}",
        ("mutua.study.work", "encoder", task, str(side), str(place)),
        place.with_suffix(".txt"),
    )


def _is_measured(folder: Path, arm: Arm) -> bool:
    place = _place(folder, arm)
    if not (place / MEASURED).is_file():
        return False
    there, encoder = read_arm(place)
    if there != arm:
        raise ValueError(f"{place} holds another arm: {there}; choose another --out, or remove it.")
    for recipe in stage_recipes(arm, place, encoder):
        before = load_recipe(recipe.output / "recipe.yaml")
        if found := first_difference(before, recipe, lambda key: key in _WHERE):
            key, old, new = found
            raise ValueError(
                f"{place} was trained with {key} {old!r}, and this study has {new!r}: choose another --out, or remove "
                "the folder, and the same command trains it anew."
            )
    return True


class _Progress:
    """What is done, what is running, and how long the rest will take."""

    def __init__(self, folder: Path, arms: Sequence[Arm], workers: int, say: Callable[[str], None]) -> None:
        self._folder, self._arms, self._lines = folder, {arm.name: arm for arm in arms}, Lines(say)
        self._started, self._before = time.monotonic(), self._work_done()
        if arms:
            say(f"{len(arms)} models to train, {workers} at a time, in {folder}")

    def encoders(self, running: Sequence[Job], done: int) -> None:
        self._lines.tell(lambda: f"training what all share: {', '.join(job.name for job in running)}")
        self._started = time.monotonic()  # of the arms, from which the rest is judged

    def arms(self, running: Sequence[Job], done: int) -> None:
        self._lines.tell(lambda: self._line(running, done))

    def _line(self, running: Sequence[Job], done: int) -> str:
        at, whole = self._work_done(), sum(map(_work, self._arms.values()))
        since, spent = at - self._before, time.monotonic() - self._started
        rest = f", {duration(spent * (whole - at) / since)} left" if since else ""
        names = (f"{job.name} ({steps_done(self._place(job))} of {self._arms[job.name].steps})" for job in running)
        return f"{done} of {len(self._arms)} models measured{rest}; now {', '.join(names)}"

    def _place(self, job: Job) -> Path:
        return _place(self._folder, self._arms[job.name])

    def _work_done(self) -> float:
        """Of the sum of `_work`, by the logs."""
        return sum(
            _work(arm) * min(1.0, steps_done(_place(self._folder, arm)) / arm.steps) for arm in self._arms.values()
        )


def _work(arm: Arm) -> float:
    """How long an arm takes, in some unit."""
    return arm.steps * (arm.side**2 + _TOKENS_OF_TEXT) * (arm.layers + 1) * (1.0 if arm.task == "grid" else 1.2)


def _report(plan: Plan, folder: Path, failed: Sequence[str]) -> Path:
    """The rows of whatever is measured, what made them, and the report."""
    measured = [arm for arm in plan.arms if _is_measured(folder, arm)]
    if not measured:
        return folder
    write_rows_of(plan, {arm: json.loads((_place(folder, arm) / MEASURED).read_text()) for arm in measured}, folder)
    with whole_file(folder / "study.json") as save:
        text = json.dumps(_record(plan, folder, measured, failed), indent=1) + "\n"
        save(lambda path: path.write_text(text, encoding="utf-8"))
    return write_report(folder)


def _record(plan: Plan, folder: Path, measured: Sequence[Arm], failed: Sequence[str]) -> dict[str, Any]:
    missing = {block.name: [arm.name for arm in block.arms if arm not in measured] for block in plan.blocks}
    record = {
        "command": " ".join(["mutua", *map(shlex.quote, sys.argv[1:])]),
        "versions": _versions(folder, measured),
        "machine": f"{_processor()}, {slots()} models at a time",
        "finished": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "models by block": {block.name: len(block.arms) for block in plan.blocks},
        "models": len(plan.arms),
        "measured": len(measured),
        "failed": list(failed),
        "missing": {name: names for name, names in missing.items() if names},
    }
    return {key: value for key, value in record.items() if value not in ([], {})}


def _versions(folder: Path, measured: Sequence[Arm]) -> dict[str, str]:
    """Of what trained the arms, maybe on several days."""
    found: dict[str, dict[str, None]] = {}
    for arm in measured:
        record = json.loads((_place(folder, arm) / f"stage-{len(arm.stages)}" / "model" / "run.json").read_text())
        for name, version in record["versions"].items():
            found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in found.items()}


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
