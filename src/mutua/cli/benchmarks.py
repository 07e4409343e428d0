"""`mutua eval --suite` and the commands below `mutua eval`: the paper's benchmarks, their data, and comparisons."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mutua.cli.common import FAILED, err, make_folder, out, report_errors, result_file
from mutua.cli.progress import progress

if TYPE_CHECKING:
    from mutua.evaluation.judge import Judge
    from mutua.world import World

CHECK_EXAMPLES = """Examples:

  mutua eval check --data data/benchmarks

  mutua eval check --data data/benchmarks --tasks pope,mme
"""

FIXTURES_EXAMPLES = """Examples:

  mutua eval fixtures data/small     (small synthetic copies, as published)

  mutua eval fixtures data/small --tsv     (as VLMEvalKit has them)
"""

COMPARE_EXAMPLES = """Examples:

  mutua eval compare runs/eval/causal runs/eval/mma --data data/benchmarks
"""

SUITES = ("paper",)

DataOption = Annotated[
    Path, typer.Option("--data", "-d", help="Folder of the benchmarks, laid out as docs/evaluation.md says.")
]
TasksOption = Annotated[
    str | None, typer.Option("--tasks", help="Benchmarks by name, with commas between. Default: the paper's ten sets.")
]


def check(data: DataOption, tasks: TasksOption = None) -> None:
    """Say what benchmarks a folder holds, what is missing or wrong, and which version (then exit code 1)."""
    with report_errors():
        from mutua.evaluation.benchmarks import BENCHMARKS
        from mutua.evaluation.data_check import check as look_at
        from mutua.evaluation.questions import expect_folder

        names = tasks_of(tasks)
        expect_folder(data)
        with progress() as show:
            found = [look_at(BENCHMARKS[name], data, partial(show, "", name)) for name in names]
        for one in found:
            out.print(f"{one.name}: {one.state}: {one.text}{f' (questions {one.digest})' if one.digest else ''}")
        usable = sum(one.is_usable for one in found)
        out.print(f"{usable} of {len(found)} can be asked")
        if usable < len(found):
            raise typer.Exit(FAILED)


def fixtures(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where they are written.")],
    tsv: Annotated[bool, typer.Option("--tsv", help="In VLMEvalKit's layout instead.")] = False,
) -> None:
    """Write small synthetic copies of the paper's benchmarks, to see everything run. No score of a model."""
    with report_errors():
        from mutua.evaluation.fixtures import write_parquet, write_tsv

        make_folder("DIR", folder)
        written = write_tsv(folder) if tsv else write_parquet(folder)
        err.print(f"written: {len(written)} files in {folder}", style="dim")


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder that `mutua eval --suite` wrote.")],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="Another, of the same questions; A is subtracted from it.")
    ],
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Folder of the benchmarks, for the pictures of the questions.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page, .html. Default: compare.html in B.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Questions to show of each benchmark and direction.")] = 10,
) -> None:
    """Compare two evaluations: paired differences, and the questions that flipped, with pictures, on one page."""
    with report_errors():
        from mutua.evaluation.compare import compare as compared
        from mutua.evaluation.compare import read_result
        from mutua.evaluation.compare_page import page, pictures_from, table

        target = output or second / "compare.html"
        results = read_result(first), read_result(second)
        comparisons = compared(*results)
        with result_file("--output", target, (".html",)) as save:
            text = page(*results, comparisons, pictures_from(comparisons, data), show)
            out.print(table(comparisons))
            for result in results:
                if alone := [name for name in result.benchmarks if name not in comparisons]:
                    err.print(f"only in {result.folder}, and not compared: {', '.join(alone)}", style="dim")
            if data is None and any(one.benchmark.samples is None for one in comparisons.values()):
                err.print("the page has no pictures: --data names the folder that holds them", style="dim")
            save(lambda path: path.write_text(text, encoding="utf-8", errors="backslashreplace"))


def tasks_of(tasks: str | None) -> Sequence[str]:
    """The names that --tasks holds, each once; the paper's where there are none."""
    from mutua.evaluation.benchmarks import BENCHMARKS, PAPER

    if tasks is None:
        return PAPER
    names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown or not names:
        raise ValueError(
            f"--tasks {tasks}: no benchmark {unknown[0] if unknown else ''!r}: use {', '.join(BENCHMARKS)}."
        )
    return names


@dataclass(frozen=True)
class Wanted:
    """The options of `mutua eval --suite`."""

    model: str | None
    policy: str | None
    data: Path | None
    tasks: str | None
    limit: int | None
    batch_size: int
    output: Path | None
    judge: str | None
    judge_url: str | None

    @property
    def name(self) -> str:
        return self.model or "packaged"

    @property
    def folder(self) -> Path:
        """Where the answers and the report go; a run's model, runs/mine/model, is called mine."""
        path = Path(self.name)
        return self.output or Path("runs/eval") / (path.parent.name if path.name == "model" else path.name)


def run_suite(wanted: Wanted) -> None:
    """Asks the benchmarks, and writes and prints what came of it."""
    rank = os.environ.get("RANK")  # torchrun's
    with report_errors(f"process {rank}: " if rank else ""):
        from mutua.world import EndedElsewhere, find_world

        try:
            _run(find_world(), wanted)
        except EndedElsewhere:
            raise typer.Exit(FAILED) from None


def _run(world: World, wanted: Wanted) -> None:
    from contextlib import nullcontext

    from mutua.evaluation.benchmarks import BENCHMARKS
    from mutua.evaluation.results import score, write_results
    from mutua.evaluation.suite import ask, open_all, open_output, settings_of
    from mutua.evaluation.suite_report import table, warnings_of, write_report
    from mutua.figures import blank_figure
    from mutua.quiet import silence
    from mutua.unlocking import open_model

    silence()
    blank_figure(1, 1)  # whatever can be wrong is said now
    output = wanted.folder
    names = tasks_of(wanted.tasks)
    if wanted.judge is not None and all(BENCHMARKS[name].judge is None for name in names):
        raise ValueError(f"--judge {wanted.judge}: rules alone read the replies of {', '.join(names)}: leave it out.")
    asked = _judge(wanted.judge, wanted.judge_url, output)
    opened = open_all(names, wanted.data)
    network, processor = open_model(wanted.model, wanted.policy, device=world.device)
    settings = settings_of(network, processor, wanted.name, wanted.batch_size, wanted.limit)
    outcomes = {}
    with open_output(output, settings, world):
        with progress() if world.is_first else nullcontext(lambda *_: None) as show:
            for questions in opened.values():
                ask(network, processor, questions, output, settings, world, show)
            if world.is_first:
                err.print("counting the figures and their intervals", style="dim")  # a minute for the whole suite
            for task, questions in opened.items() if world.is_first else ():
                judged = partial(show, asked.name if asked else "", questions.benchmark.title)
                outcomes[task] = score(questions, output, settings, asked, judged)
        if world.is_first:
            out.print(table(outcomes))  # first: whatever becomes of the files
            for warning in warnings_of(outcomes):
                err.print(warning, style="yellow")
            write_results(output, settings, outcomes, asked)
            err.print(f"written: {write_report(output, settings, outcomes, asked)}", style="dim")


def _judge(name: str | None, url: str | None, output: Path) -> Judge | None:
    """Raises ValueError where there is no key for it, or a URL without a name."""
    from mutua.evaluation.judge import Judge, JudgeError

    if name is None:
        if url is not None:
            raise ValueError(f"--judge-url {url} is the server of a judge: name the judge with --judge.")
        return None
    try:
        return Judge(name, output / "judge", url=url)
    except JudgeError as error:
        raise ValueError(f"--judge {name}: {error}") from error
