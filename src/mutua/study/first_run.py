"""The first run: an MMA model and its causal twin, trained here and now, side by side, within minutes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutua.evaluation.accuracy import Accuracy, Record
from mutua.inspection.draw_looks import Said, draw_looks
from mutua.inspection.looks import looks_of
from mutua.models.loading import load_model
from mutua.quiet import quiet
from mutua.study.plan import PAIR, Arm
from mutua.study.pool import Job, run_jobs, slots
from mutua.study.progress import Lines, duration, read_lines, steps_done
from mutua.study.recipes import BATCH, open_source, stage_recipes, test_sources
from mutua.study.statistics import Point
from mutua.study.work import ARM, MEASURED, arm_job, read_arm, write_arm
from mutua.training.recipe import Recipe
from mutua.training.recipe_file import dump_recipe

STEPS = 800
"""So many optimizer steps show the effect; a machine that is too slow for the budget takes fewer."""
FEWEST_STEPS = 600
"""With fewer both arms may still guess."""

_TRIAL_STEPS = 24
OTHER_SECONDS = 110.0
"""For what is not training: imports, the questions of both splits, those to the packaged pair, the figures."""


@dataclass(frozen=True)
class LivePair:
    """Two arms of one seed, trained and measured.

    Attributes:
        models: their folders, by policy.
        curves: accuracy on the validation split while they learned, over all families, by policy.
        answers: to the questions of the test split, by policy.
        seed: of both.
        steps: optimizer steps of each.
    """

    models: Mapping[str, Path]
    curves: Mapping[str, Sequence[Point]]
    answers: Mapping[str, Accuracy]
    seed: int
    steps: int

    @property
    def samples(self) -> int:
        """How many each was trained on."""
        return BATCH["grid"] * self.steps


@dataclass(frozen=True)
class Asked:
    """A question, its right answer, and what each policy's model said."""

    question: str
    answer: str
    said: Mapping[str, str]


def train_pair(folder: Path, seed: int | None, seconds: float, say: Callable[[str], None]) -> LivePair:
    """Trains both arms side by side, with as many steps as `seconds` allow, and measures them.

    Stopped, the same call goes on where it was, with the seed and the steps that it began with.

    Args:
        seed: None is 0, or the one that it began with.

    Raises:
        ValueError: it began with another seed.
        JobError: an arm failed.
        KeyboardInterrupt: both were stopped, and what they have is saved.
    """
    begun = [folder / policy for policy in PAIR if (folder / policy / ARM).is_file()]
    if begun:
        arm, _ = read_arm(begun[0])
        if seed is not None and seed != arm.seed:
            raise ValueError(
                f"{folder} was begun with seed {arm.seed}, not {seed}: leave --seed out to go on with it, or choose "
                "another --output."
            )
        steps, seed = arm.steps, arm.seed
        say(f"{folder} was begun before: it goes on with its own number of steps, however long they take")
    else:
        seed = seed or 0
        steps = _steps_within(folder, seconds, say)
    each = f"{steps} steps of {BATCH['grid']} questions"
    say(f"training {' and '.join(PAIR)}: same start, same data, seed {seed}, {each} each")
    for policy in PAIR:
        write_arm(folder / policy, Arm(policy, seed, steps=steps), None)
    lines, started, whole = Lines(say), time.monotonic(), len(PAIR) * steps
    before = sum(steps_done(folder / policy) for policy in PAIR)

    def line() -> str:
        now = sum(steps_done(folder / policy) for policy in PAIR)
        if now == whole:
            return "trained; asking both the held-out questions"
        if now == before:
            return "starting both"
        rest = (time.monotonic() - started) * (whole - now) / (now - before) + OTHER_SECONDS
        return f"{now / whole:.0%} trained{_scores(folder)}, {duration(rest)} left over all stages"

    jobs = [arm_job(folder / policy, policy) for policy in PAIR if not (folder / policy / MEASURED).is_file()]
    run_jobs(jobs, slots(), lambda running, done: lines.tell(line))
    return _live_pair(folder, seed, steps)


def draw_difference(pair: LivePair, scene: Path, looks: Path) -> Asked:
    """Draws a test question on which the arms differ: the scene as it is, and where each arm looks at it.

    The first such question of the family where they differ most often, whoever is right; the first of all if they never
    do.
    """
    index = _differing(*(pair.answers[policy].records for policy in PAIR))
    sample = open_source(test_sources(Arm(PAIR[0]))["grid"])[index]
    messages = sample.prompt()
    picture = messages[0]["content"][0]["image"]
    picture.save(scene)
    maps, said = {}, {}
    for policy in PAIR:
        with quiet():
            model, processor = load_model(pair.models[policy])
        maps[policy] = looks_of(model, processor, [messages]).rollout_BSS[0]
        record = pair.answers[policy].records[index]
        said[policy] = Said(record.answer, record.is_correct)
    draw_looks(looks, picture, sample.question, maps, said)
    return Asked(sample.question, sample.answer, {policy: one.answer for policy, one in said.items()})


def _differing(ours: Sequence[Record], theirs: Sequence[Record]) -> int:
    by_family: dict[str, list[int]] = {}
    for index, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        if one.is_correct != two.is_correct:
            by_family.setdefault(one.family, []).append(index)
    return max(by_family.values(), key=len)[0] if by_family else 0


def _live_pair(folder: Path, seed: int, steps: int) -> LivePair:
    found = {policy: json.loads((folder / policy / MEASURED).read_text(encoding="utf-8")) for policy in PAIR}
    return LivePair(
        models={policy: folder / policy / "stage-1" / "model" for policy in PAIR},
        curves={policy: _curve(one["curve"]) for policy, one in found.items()},
        answers={policy: Accuracy(tuple(Record(**r) for r in one["tests"]["grid"])) for policy, one in found.items()},
        seed=seed,
        steps=steps,
    )


def _curve(points: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Over all families."""
    by_samples: dict[int, list[Mapping[str, Any]]] = {}
    for point in points:
        by_samples.setdefault(point["samples"], []).append(point)
    return [
        Point(samples, some[0]["seconds"], sum(p["correct"] for p in some) / sum(p["total"] for p in some))
        for samples, some in by_samples.items()
    ]


def _steps_within(folder: Path, seconds: float, say: Callable[[str], None]) -> int:
    """As many steps as fit: both arms run a few, side by side, and their logs tell how fast that was."""
    started, jobs = time.monotonic(), []
    recipes = [trial_recipe(policy, folder / f".trial-{policy}") for policy in PAIR]
    for policy, recipe in zip(PAIR, recipes, strict=True):
        recipe.output.parent.mkdir(parents=True, exist_ok=True)
        path = recipe.output.with_suffix(".yaml")
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        jobs.append(Job(f"trial {policy}", ("mutua", "train", str(path)), recipe.output.with_suffix(".txt")))
    say("measuring the speed of this machine")
    run_jobs(jobs, slots(), lambda running, done: None)
    rounds = -(-len(PAIR) // slots())  # on one core one arm waits for the other
    a_step = max(map(_seconds_a_step, recipes)) * rounds
    left = seconds - (time.monotonic() - started) - OTHER_SECONDS
    steps = max(FEWEST_STEPS, min(STEPS, int(left / a_step)))
    rate = f"{BATCH['grid'] * rounds / a_step:.0f} samples a second and core"
    if steps * a_step > left:
        whole = duration(steps * a_step + OTHER_SECONDS)
        say(f"{rate}: {steps} steps, the fewest that show anything, take {whole}, more than there is")
    else:
        say(f"{rate}: {steps} steps take about {duration(steps * a_step)}, {duration(OTHER_SECONDS)} more for the rest")
    return steps


def trial_recipe(policy: str, folder: Path) -> Recipe:
    """The first steps of an arm, evaluations left out."""
    (recipe,) = stage_recipes(Arm(policy, steps=_TRIAL_STEPS), folder, None)
    train = recipe.train.model_copy(update={"log_every": _TRIAL_STEPS // 2, "checkpoint_every": 10 * _TRIAL_STEPS})
    return recipe.model_copy(update={"train": train, "evaluate": type(recipe.evaluate)()})


def _seconds_a_step(recipe: Recipe) -> float:
    """In the second half: the first steps are slower."""
    lines = read_lines(recipe.output / "log.jsonl")
    return (lines[-1]["seconds"] - lines[0]["seconds"]) / (lines[-1]["step"] - lines[0]["step"])


def _scores(folder: Path) -> str:
    """How both arms did on the validation split when they were last asked."""
    said = []
    for policy in PAIR:
        if lines := read_lines(folder / policy / "stage-1" / "evaluations.jsonl"):
            said.append(f"{policy} {lines[-1]['results']['grid']['overall']['accuracy']:.0%}")
    return f" (right so far: {', '.join(said)})" if len(said) == len(PAIR) else ""
