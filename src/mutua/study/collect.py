"""From what the arms of a study left to the rows of its CSV files."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from mutua.evaluation.accuracy import Record
from mutua.evaluation.blind import blind_accuracy
from mutua.evaluation.held_out import blind_guess
from mutua.study.plan import BASELINE, Arm, Plan
from mutua.study.recipes import BATCH, open_source, test_sources
from mutua.study.results import BLIND, NULL, TRUTH, WITH_CURVES, CostRow, LookRow, PairRow, ScoreRow, YesRow, write_rows

Measured = Mapping[Arm, Mapping[str, Any]]  # an arm, and its measured.json


def write_rows_of(plan: Plan, measured: Measured, folder: Path) -> None:
    """Writes scores.csv, yes.csv, pairs.csv, cost.csv and looks.csv of the arms that are measured."""
    blocks = {block.name: [arm for arm in block.arms if arm in measured] for block in plan.blocks}
    arms = [(name, arm) for name, of_block in blocks.items() for arm in of_block]
    steps = _step_seconds(measured)
    scores = [row for name, arm in arms for row in _scores(name, arm, measured[arm], steps[replace(arm, seed=0)])]
    blind = [
        row
        for name, of_block in blocks.items()
        if not name.startswith(NULL)
        for row in _blind(name, of_block, measured)
    ]
    write_rows(folder, ScoreRow, scores + blind)
    truth = [row for name, of_block in blocks.items() for row in _truth(name, of_block[:1], measured)]
    write_rows(folder, YesRow, [row for name, arm in arms for row in _yes(name, arm, measured[arm])] + truth)
    write_rows(folder, PairRow, [row for name, of_block in blocks.items() for row in _pairs(name, of_block, measured)])
    write_rows(folder, CostRow, list(_costs(measured)))
    looked = dict.fromkeys(arm for name, of_block in blocks.items() if name in _WITH_LOOKS for arm in of_block)
    write_rows(folder, LookRow, [row for arm in looked for row in _looks(arm, measured[arm])])


_WITH_LOOKS = {"main", "policies", "policies by backbone"}  # blocks whose arms differ in no more than looks.csv tells
_FITTED = 12_000  # questions of the training split that the guess knows


def _arm_columns(block: str, arm: Arm) -> dict[str, Any]:
    names = ("backbone", "connector", "policy", "order", "layers", "side", "seed")
    return {"block": block, **{name: getattr(arm, name) for name in names}, "length": arm.steps * BATCH[arm.task]}


def _step_seconds(measured: Measured) -> dict[Arm, float]:
    """The time of a training step by arm, its seed 0: the median over the seeds of each one's median.

    Learning curves against time are drawn by it, so that what else ran on the machine for a while does not show.
    """
    times: defaultdict[Arm, list[float]] = defaultdict(list)
    for arm, found in measured.items():
        times[replace(arm, seed=0)].append(found["cost"]["step_ms"] / 1000)
    return {arm: statistics.median(of_seeds) for arm, of_seeds in times.items()}


def _scores(block: str, arm: Arm, found: Mapping[str, Any], step_seconds: float) -> Iterator[ScoreRow]:
    columns = _arm_columns(block, arm)
    a_sample = step_seconds / BATCH[arm.task]
    for point in found["curve"] if block in WITH_CURVES else ():
        yield ScoreRow(**columns, split="validation", **{**point, "seconds": round(a_sample * point["samples"], 3)})
    for task, records in found["tests"].items():
        for family, some in _by_family(records):
            right = sum(record.is_correct for record in some)
            yield ScoreRow(
                **columns,
                samples=columns["length"],
                seconds=round(a_sample * columns["length"], 3),
                split="test",
                task=task,
                family=family,
                correct=right,
                total=len(some),
            )


def _blind(block: str, arms: list[Arm], measured: Measured) -> Iterator[ScoreRow]:
    """The best guess that never sees a picture, by the tasks and sizes of a block; "pope" is never trained on and has
    none."""
    sizes: dict[tuple[str, int], Arm] = {}
    for arm in arms:
        sizes.setdefault((arm.task, arm.side), arm)
    for arm in sizes.values():
        columns = {**_arm_columns(block, arm), "policy": BLIND, "samples": 0, "seconds": 0.0, "split": "test"}
        for task, settings in test_sources(arm).items():
            if task == "pope":
                continue
            guess = _grid_guess(settings) if task == "grid" else blind_guess(task)
            for family, records in _by_family(measured[arm]["tests"][task]):
                right = round((guess or {})[family] * len(records))
                yield ScoreRow(**columns, task=task, family=family, correct=right, total=len(records))


def _grid_guess(settings: dict[str, Any]) -> Mapping[str, float]:
    return _guess(json.dumps({**settings, "split": "train", "size": _FITTED}), json.dumps(settings))


@cache
def _guess(train: str, test: str) -> Mapping[str, float]:
    """Blocks share their questions; sources by their settings as JSON."""
    return blind_accuracy(*(open_source(json.loads(one))[:] for one in (train, test)))


def _yes(block: str, arm: Arm, found: Mapping[str, Any]) -> Iterator[YesRow]:
    """Of the families that ask for what may not be there."""
    for family, records in _by_family(found["tests"].get("pope", [])):
        yield _yes_row(block, arm, family, [record.answer for record in records])


def _truth(block: str, arms: list[Arm], measured: Measured) -> Iterator[YesRow]:
    """How often "yes" is the right answer."""
    for arm in arms:
        for family, records in _by_family(measured[arm]["tests"].get("pope", [])):
            right = [record.expected for record in records]
            yield _yes_row(block, replace(arm, policy=TRUTH), family, right)


def _yes_row(block: str, arm: Arm, family: str, answers: list[str]) -> YesRow:
    columns = _arm_columns(block, arm)
    return YesRow(
        **columns,
        samples=columns["length"],
        split="test",
        task="pope",
        family=family,
        said_yes=sum(answer.strip().casefold() == "yes" for answer in answers),
        total=len(answers),
    )


def _pairs(block: str, arms: list[Arm], measured: Measured) -> Iterator[PairRow]:
    """Every arm beside the causal one that is equal but for the policy.

    Raises:
        ValueError: the two were not asked the same questions.
    """
    baselines = {_but_policy(arm): arm for arm in arms if arm.policy == BASELINE}
    for arm in arms:
        baseline = baselines.get(_but_policy(arm))
        if baseline is None or baseline is arm:
            continue
        columns = {name: value for name, value in _arm_columns(block, arm).items() if name != "policy"}
        for task, records in measured[arm]["tests"].items():
            theirs = dict(_by_family(measured[baseline]["tests"][task]))
            for family, some in _by_family(records):
                asked, of_other = ([(record.id, record.question) for record in of] for of in (some, theirs[family]))
                if asked != of_other:
                    raise ValueError(
                        f"{arm.name} and {baseline.name} were not asked the same questions of {task}, {family}: remove "
                        "the folders of both and run the same study again."
                    )
                right = [(one.is_correct, other.is_correct) for one, other in zip(some, theirs[family], strict=True)]
                yield PairRow(
                    **columns,
                    task=task,
                    family=family,
                    policy=arm.policy,
                    baseline=BASELINE,
                    both_right=right.count((True, True)),
                    only_policy=right.count((True, False)),
                    only_baseline=right.count((False, True)),
                    both_wrong=right.count((False, False)),
                )


def _but_policy(arm: Arm) -> tuple[Any, ...]:
    return tuple(value for name, value in vars(arm).items() if name != "policy")


def _costs(measured: Measured) -> Iterator[CostRow]:
    """Of the arms on grid scenes, medians over their seeds; of the shortest length, as only some have another one."""
    own = [arm for arm in measured if (arm.task, arm.questions) == ("grid", "own")]
    shortest = min((arm.steps for arm in own), default=0)
    by_arm: defaultdict[Arm, list[Mapping[str, Any]]] = defaultdict(list)
    for arm in own:
        if arm.steps == shortest:
            by_arm[replace(arm, seed=0)].append(measured[arm]["cost"])
    for arm, costs in by_arm.items():
        steps, peaks = [cost["step_ms"] for cost in costs], [cost["peak_mib"] for cost in costs if cost["peak_mib"]]
        yield CostRow(
            **{name: getattr(arm, name) for name in ("backbone", "connector", "policy", "order", "layers", "side")},
            seeds=len(costs),
            step_ms=statistics.median(steps),
            fastest_ms=min(steps),
            slowest_ms=max(steps),
            peak_mib=statistics.median(peaks) if peaks else None,
            gflops_per_sample=statistics.median(cost["gflops_per_sample"] for cost in costs),
        )


def _looks(arm: Arm, found: Mapping[str, Any]) -> Iterator[LookRow]:
    for look in found.get("looks", []):
        yield LookRow(arm.backbone, arm.connector, arm.policy, arm.seed, **look)


def _by_family(records: list[dict[str, Any]]) -> Iterator[tuple[str, list[Record]]]:
    ordered = sorted((Record(**record) for record in records), key=lambda record: record.family)  # stable
    return ((family, list(some)) for family, some in groupby(ordered, key=lambda record: record.family))
