"""`mutua eval`: how often models are right, by question family."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mutua.cli.common import err, load_model, out, report_errors

if TYPE_CHECKING:
    from mutua.evaluation import Accuracy

EXAMPLES = """Examples:

  mutua eval                                   (the packaged model, on easy-VQA's test split and held-out scenes)

  mutua eval -m runs/a/model -m runs/b/model --data scenes --limit 1000

  mutua eval --data mine.jsonl --json results.json
"""

SECONDS_BETWEEN_LINES = 30  # of progress, where there is no terminal to draw a bar on


def evaluate(
    models: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Folder or hub id; repeatable. Default: the packaged one.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", "-d", help="easy-vqa, scenes, or a file or folder of samples (docs/data.md); repeatable."
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option("--policy", "-p", help="Another attention policy: mma, causal.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions per source, spread evenly over it.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions per batch.")] = 64,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write scores and every answer to this file.")
    ] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw the accuracies to this PNG.")] = None,
) -> None:
    """Print accuracy per question family, greedy answers, exact match, with 95 % intervals."""
    with report_errors():
        # Whatever can be wrong is said now, not after an hour of questions.
        for option, path in (("--json", json_path), ("--figure", figure)):
            if path is not None and not path.absolute().parent.is_dir():
                raise ValueError(f"{option} {path}: there is no folder {path.parent}; make it first.")
            if path is not None and path.is_dir():
                raise ValueError(f"{option} {path} is a folder: name a file in it.")
        if figure is not None and figure.suffix.lower() != ".png":
            raise ValueError(f"--figure {figure}: accuracies are drawn as .png.")
        from mutua.evaluation import HELD_OUT, blind_guess, measure, open_source, to_json

        sources = {name: open_source(name) for name in data or HELD_OUT}
        networks = {name: load_model(name, policy) for name in models or []}
        if not networks:
            networks["packaged"] = load_model(None, policy)
        with progress() as show:
            results = measure(networks, sources, limit=limit, batch_size=batch_size, progress=show)
        if json_path is not None:
            json_path.write_text(json.dumps(to_json(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            err.print(f"written: {json_path}", style="dim")
        report(results, {name: blind_guess(name) for name in results}, figure=figure)


@contextmanager
def progress() -> Iterator[Callable[[str, str, int, int], None]]:
    """For `measure`: a bar for each pair of model and source, or lines where stderr is no terminal.

    Where the model has no name, the source stands alone.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    tasks: dict[str, TaskID] = {}
    printed = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as bars:

        def show(model: str, source: str, done: int, total: int) -> None:
            nonlocal printed
            pair = f"{model} on {source}" if model else source
            if pair not in tasks:
                tasks[pair] = bars.add_task(pair, total=total)
            bars.update(tasks[pair], completed=done)
            if not err.is_terminal and time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                printed = time.monotonic()
                err.print(f"{pair}: {done} of {total}", markup=False, soft_wrap=True)

        yield show


def report(
    results: Mapping[str, Mapping[str, Accuracy]],
    blind: Mapping[str, Mapping[str, float] | None],
    *,
    figure: Path | None = None,
) -> None:
    """One table per source on stdout, and the figure if one is asked for."""
    from mutua.evaluation.report import figure as draw
    from mutua.evaluation.report import table

    for source, by_model in results.items():
        out.print(table(by_model, blind=blind[source], title=source))
    if figure is not None:
        draw(figure, results, blind=blind)
        err.print(f"drawn: {figure}", style="dim")
