"""What a run reports while it goes: a progress bar, JSON Lines files and the loggers of `train.loggers`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mutua.folders import errors_naming, replace_file
from mutua.training.checkpoint import Progress
from mutua.training.loggers import open_loggers
from mutua.training.recipe import Recipe
from mutua.training.run_folder import RunFolder
from mutua.training.samples import SampleCounts, Skip
from mutua.training.step import StepMetrics

_SECONDS_BETWEEN_LINES = 30


class StepLog:
    """A JSON Lines file in which every line has a `step`. Opened again, it forgets the lines after `step`."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        kept = [line for line in _lines(path) if line["step"] <= step]
        replace_file(path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self.first: dict[str, Any] | None = kept[0] if kept else None
        self.last: dict[str, Any] | None = kept[-1] if kept else None
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        self.first, self.last = self.first or line, line
        with errors_naming(self._path):
            # repr of a float is exact: two logs are equal if and only if the numbers were.
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def close(self) -> None:
        with suppress(OSError):  # every line is flushed; one that could not be has been told
            self._file.close()


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; a last one that a killed process left torn is none."""
    lines = []
    whole = path.read_bytes().rpartition(b"\n")[0].splitlines() if path.is_file() else []
    for number, text in enumerate(whole, start=1):
        try:
            line = json.loads(text)
            if not isinstance(line["step"], int):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{path}: line {number} is no line of a run's log: move the file away, and the run goes on without it"
            ) from None
        lines.append(line)
    return lines


class NoLog:
    """Of a process that another one speaks for."""

    class _Nothing:
        first: dict[str, Any] | None = None
        last: dict[str, Any] | None = None

    training = evaluations = _Nothing()
    places: tuple[str, ...] = ()

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def step(self, progress: Progress, metrics: StepMetrics | None, record: bool) -> None:
        pass

    def skipped(self, step: int, skips: Sequence[Skip], names: Sequence[str]) -> None:
        pass

    def evaluation(self, step: int, results: dict[str, Any]) -> None:
        pass

    @contextmanager
    def watch(self, name: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: None


class RunLog:
    """Everything that is reported of a run, from where it starts or resumes."""

    def __init__(self, folder: RunFolder, recipe: Recipe, progress: Progress, console: Console) -> None:
        self.training = StepLog(folder.log, progress.step)
        self.evaluations = StepLog(folder.evaluations, progress.step)
        self.quarantine = StepLog(folder.quarantine, progress.step)
        self._loggers = open_loggers(folder, recipe, progress.step)
        self.places = tuple(logger.place for logger in self._loggers)
        self._console, self._recorded, self._printed = console, progress, time.monotonic()
        self._bar = Bar(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(recipe.name, total=recipe.train.steps, completed=progress.step, status="")

    def __enter__(self) -> RunLog:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()
        with ExitStack() as closing:  # all of them, whichever fails
            for file in (self.training, self.evaluations, self.quarantine):
                closing.callback(file.close)
            for logger in self._loggers:
                # On a full disk what an error has left unwritten fails again here, and must not hide it.
                closing.enter_context(nullcontext() if error is None else suppress(OSError))
                closing.callback(logger.close, failed=error is not None)

    def step(self, progress: Progress, metrics: StepMetrics | None, record: bool) -> None:
        """Shows a finished step, and records it if asked to. One without a single usable sample has no metrics."""
        rate = (progress.samples - self._recorded.samples) / (progress.seconds - self._recorded.seconds)
        of_step = "no sample of this step can be used"
        if metrics is not None:
            of_step = f"loss {metrics.loss:.4f}  accuracy {metrics.accuracy:.1%}"
        status = f"{of_step}  {rate:.0f} samples/s"
        self._bar.update(self._task, completed=progress.step, status=status)
        if not record:
            return
        counts = sum(progress.counts, SampleCounts())
        line = {
            "step": progress.step,
            **(dict.fromkeys(StepMetrics.__annotations__) if metrics is None else vars(metrics)),
            "samples_per_second": round(rate, 2),
            "seconds": round(progress.seconds, 3),
            "samples_bad": counts.bad,
            "samples_too_long": counts.too_long,
            "samples_cut": counts.cut,
        }
        self.training.write(line)
        unused = ("step", "seconds")
        self._draw(progress.step, {f"train/{k}": v for k, v in line.items() if k not in unused and v is not None})
        self._recorded = progress
        self._say_now_and_then(f"step {progress.step}  {status}")

    def _say_now_and_then(self, text: str) -> None:
        """A line that stays, where the bar is gone in the end, or cannot be drawn."""
        if time.monotonic() - self._printed > _SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            self._console.print(text, markup=False, soft_wrap=True)

    def skipped(self, step: int, skips: Sequence[Skip], names: Sequence[str]) -> None:
        """Writes down which samples a step (counted from 1) had to leave out, and why."""
        for skip in skips:
            self.quarantine.write({"step": step, "source": names[skip.source], "id": skip.id, "reason": skip.reason})

    def evaluation(self, step: int, results: dict[str, Any]) -> None:
        """Records the results of all evaluation sources, as `Accuracy.summary` gives them."""
        self.evaluations.write({"step": step, "results": results})
        scores = {}
        for source, result in results.items():
            overall = result["overall"]
            scores[f"evaluation/{source}"] = overall["accuracy"]
            scores |= {f"evaluation/{source}/{family}": s["accuracy"] for family, s in result["families"].items()}
            self._console.print(
                f"step {step}  {source}: {overall['accuracy']:.1%} of {overall['total']} "
                f"({overall['low']:.1%} to {overall['high']:.1%})",
                markup=False,
                soft_wrap=True,
            )
        self._draw(step, scores)

    def _draw(self, step: int, values: dict[str, float]) -> None:
        for logger in self._loggers:
            logger.scalars(step, values)

    @contextmanager
    def watch(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """A second bar while the block runs, for an evaluation: call what it yields with (done, total)."""
        task = self._bar.add_task(name, status="")

        def show(done: int, total: int) -> None:
            self._bar.update(task, completed=done, total=total)
            self._say_now_and_then(f"{name}: {done} of {total}")

        try:
            yield show
        finally:
            self._bar.remove_task(task)
