"""SmolLM2-135M learns to see, under causal attention and under MMA: same start, samples and order, seed by seed.

`recipes/smollm2.yaml` with a vision encoder that knows no policy (that of `mutua study`, trained on captions), batches
of 64, and 800 test questions asked on the way; every question of the test split at the end. Nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mutua.evaluation import words
from mutua.evaluation.intervals import mean_over
from mutua.study.curves import draw_curves
from mutua.study.plan import PAIR
from mutua.study.pool import Job, run_jobs, slots
from mutua.study.progress import Lines, duration, read_lines
from mutua.study.results import Row, read_rows, write_rows
from mutua.study.statistics import Point
from mutua.study.style import legend, panels, title
from mutua.study.summary import ALL, Arm, grouped
from mutua.study.work import curve
from mutua.training.recipe_file import RecipeError, load_recipe
from mutua.training.run_folder import open_run

EXAMPLES = """examples:
  python benchmarks/smollm2.py --vision runs/full/encoders/scenes-6/model --processes 6    on a GPU: 6 minutes
  python benchmarks/smollm2.py --vision runs/full/encoders/scenes-6/model    2 cores: 5 hours, in parts if stopped
  python benchmarks/smollm2.py --draw docs/study        table and figure of the rows in a folder; nothing is trained
"""
BATCH, ON_THE_WAY, EVALUATIONS = 64, 800, 8
CURVE, END = "some, while learning", "all, at the end"
_FIGURE = "smollm2.svg"


@dataclass(frozen=True)
class ScoreRow(Row):
    """How many questions of a family an arm answered right, after so many samples."""

    seed: int
    policy: str
    asked: str
    samples: int
    family: str
    correct: int
    total: int

    FILE: ClassVar[str] = "smollm2.csv"
    MEASURED: ClassVar[tuple[str, ...]] = ("correct", "total")


@dataclass(frozen=True)
class Run:
    """An arm: its folder, and what trains and asks it."""

    policy: str
    seed: int
    folder: Path

    @property
    def test(self) -> Path:
        return self.folder / "test.json"

    def settings(self, options: argparse.Namespace) -> list[str]:
        """What of the recipe is an arm's own, as `key=value`."""
        evaluate = {"sources": {"easy-vqa": {"type": "easy-vqa", "split": "test"}}, "batch_size": 400}
        evaluate |= {"limit": ON_THE_WAY, "every": max(1, options.steps // EVALUATIONS)}
        values = {"name": self.folder.name, "seed": self.seed, "output": str(self.folder), "evaluate": evaluate}
        values |= {"model.attention_policy": self.policy, "train.batch_size": BATCH, "train.steps": options.steps}
        values |= {"train.warmup_steps": options.steps // 6}
        if options.vision is not None:
            values["model.vision"] = str(options.vision)
        return [f"{name}={json.dumps(value)}" for name, value in values.items()]

    def is_trained(self, options: argparse.Namespace) -> bool:
        """RecipeError where the folder holds a run of other settings: its figures are not for this mean."""
        if not self.folder.is_dir():
            return False
        recipe = load_recipe(options.recipe, self.settings(options))
        with open_run(recipe) as run:
            return run.finished(recipe.train.steps) is not None

    def training(self, options: argparse.Namespace) -> Job:
        settings = [word for setting in self.settings(options) for word in ("--set", setting)]
        return Job(
            self.folder.name, ("mutua", "train", str(options.recipe), *settings), self.folder.with_suffix(".txt")
        )

    def question(self) -> Job:
        words = ("eval", "-m", str(self.folder / "model"), "-d", "easy-vqa", "--batch-size", "400")
        return Job(
            f"{self.folder.name}, asked", ("mutua", *words, "--json", str(self.test)), self.folder.with_suffix(".txt")
        )

    def rows(self) -> Iterator[ScoreRow]:
        recipe = load_recipe(self.folder / "recipe.yaml")
        for point in curve([recipe]):
            yield self._row(CURVE, point["samples"], point["family"], point)
        (result,) = json.loads(self.test.read_text(encoding="utf-8"))["easy-vqa"].values()
        for family, score in result["families"].items():
            yield self._row(END, recipe.train.steps * recipe.train.batch_size, family, score)

    def _row(self, asked: str, samples: int, family: str, score: dict[str, Any]) -> ScoreRow:
        return ScoreRow(self.seed, self.policy, asked, samples, family, score["correct"], score["total"])


def run(options: argparse.Namespace) -> list[ScoreRow]:
    """Does what is missing; the rows of everything."""
    runs = [Run(policy, seed, options.out / f"{policy}-{seed}") for seed in options.seeds for policy in PAIR]
    lines, started = Lines(lambda line: print(line, flush=True)), time.monotonic()

    def steps_done() -> int:
        return sum(last[-1]["step"] for run in runs if (last := read_lines(run.folder / "log.jsonl")))

    before = steps_done()

    def line(running: Sequence[Job]) -> str:
        done, whole = steps_done(), options.steps * len(runs)
        left = (time.monotonic() - started) * (whole - done) / (done - before) if done > before else None
        said = "" if left is None else f", {duration(left)} left"
        return f"{done / whole:.0%} trained{said}; now {', '.join(job.name for job in running)}"

    to_train = [run for run in runs if not run.is_trained(options)]
    for run in to_train:
        run.test.unlink(missing_ok=True)  # of a shorter training
    for jobs in (
        [run.training(options) for run in to_train],
        [run.question() for run in runs if not run.test.is_file()],
    ):
        run_jobs(jobs, options.processes, lambda running, _: lines.tell(lambda: line(running)))
    return [row for run in runs for row in run.rows()]


def report(folder: Path, rows: Sequence[ScoreRow]) -> str:
    """Draws the figure into the folder, and returns the table as Markdown."""
    families = [ALL, *dict.fromkeys(row.family for row in rows if row.asked == END)]
    figure, axes = panels(len(families), 3, 2.4)
    handles: dict[str, Any] = {}
    for panel, family in zip(axes, families, strict=False):
        handles |= draw_curves(panel, {Arm(policy): _curves(rows, policy, family) for policy in PAIR})
        title(panel, family)
    legend(figure, handles)
    figure.savefig(folder / _FIGURE)
    lines = ["| family | questions | causal | mma | mma less causal, points |", "|---|---:|---:|---:|---:|"]
    seeds = sorted({row.seed for row in rows})
    for family in families:
        shares = {p: [_share(rows, policy=p, seed=seed, family=family) for seed in seeds] for p in PAIR}
        means = [f"{100 * sum(of) / len(of):.1f} %" for of in shares.values()]
        gain = mean_over([b - a for a, b in zip(*shares.values(), strict=True)])
        asked = sum(row.total for row in rows if _is(row, PAIR[0], seeds[0], family))
        lines.append(f"| {family} | {asked:,} | {' | '.join(means)} | {words.points(gain)} |")
    return "\n".join(lines)


def _is(row: ScoreRow, policy: str, seed: int, family: str, asked: str = END) -> bool:
    return (row.policy, row.seed, row.asked) == (policy, seed, asked) and family in (ALL, row.family)


def _share(rows: Sequence[ScoreRow], policy: str, seed: int, family: str) -> float:
    return _accuracy([row for row in rows if _is(row, policy, seed, family)])


def _accuracy(rows: Sequence[ScoreRow]) -> float:
    return sum(row.correct for row in rows) / sum(row.total for row in rows)


def _curves(rows: Sequence[ScoreRow], policy: str, family: str) -> list[list[Point]]:
    """Of each seed."""
    curves = []
    for seed in sorted({row.seed for row in rows}):
        mine = [row for row in rows if _is(row, policy, seed, family, CURVE)]
        by_samples = grouped(sorted(mine, key=lambda row: row.samples), lambda row: row.samples)
        curves.append([Point(samples, 0.0, _accuracy(here)) for samples, here in by_samples.items()])
    return curves


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vision", type=Path, help="folder of a model whose encoder is taken; default: the recipe's")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/smollm2.yaml"))
    parser.add_argument("--seeds", type=lambda text: [int(x) for x in text.split(",")], default="0,1,2")
    parser.add_argument("--steps", type=int, default=600, help=f"of {BATCH} samples")
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2-pairs"), help="folder of models and results")
    parser.add_argument("--processes", type=int, default=slots(), help="models at once")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="table and figure of the rows that are there")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.draw is not None:
        drawn = read_rows(options.draw, ScoreRow)
        if not drawn:
            sys.exit(f"--draw {options.draw}: no rows in {options.draw / ScoreRow.FILE}; name the folder of a run")
        print(report(options.draw, drawn))
        return
    try:
        rows = run(options)
    except RecipeError as error:
        sys.exit(str(error))
    write_rows(options.out, ScoreRow, rows)
    print(report(options.out, rows))


if __name__ == "__main__":
    main()
