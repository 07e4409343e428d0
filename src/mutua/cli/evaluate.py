"""`mutua eval`: how often models are right, by question family."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutua.cli.common import err, load_model, mistakes_told, out

if TYPE_CHECKING:
    from mutua.data.sample import Sample
    from mutua.evaluation import Accuracy

EXAMPLES = """Examples:

  mutua eval                                   (the packaged model, on easy-VQA's test split and held-out scenes)

  mutua eval -m runs/a/model -m runs/b/model --data scenes --limit 1000

  mutua eval --data mine.jsonl --json results.json
"""

SECONDS_BETWEEN_LINES = 30  # of progress, where there is no terminal to draw a bar on

# What held-out means for the two sources of the recipes: easy-VQA's own split, layouts that no training scene has.
HELD_OUT: dict[str, dict[str, Any]] = {
    "easy-vqa": {"type": "easy-vqa", "split": "test"},
    "scenes": {"type": "scenes", "split": "test", "size": 5000, "seed": 1},
}


def evaluate(
    models: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Folder or hub id; repeatable. Default: the packaged one.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", "-d", help="easy-vqa, scenes or a .jsonl file; repeatable.")
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
    with mistakes_told():
        # Whatever can be wrong is said now, not after an hour of questions.
        for option, path in (("--json", json_path), ("--figure", figure)):
            if path is not None and not path.absolute().parent.is_dir():
                raise ValueError(f"{option} {path}: there is no folder {path.parent}; make it first.")
            if path is not None and path.is_dir():
                raise ValueError(f"{option} {path} is a folder: name a file in it.")
        if figure is not None and figure.suffix.lower() != ".png":
            raise ValueError(f"--figure {figure}: accuracies are drawn as .png.")
        sources = {name: open_source(name) for name in data or HELD_OUT}
        networks = {name: load_model(name, policy) for name in models or []}
        if not networks:
            networks["packaged"] = load_model(None, policy)
        results = measure(networks, sources, limit=limit, batch_size=batch_size)
        if json_path is not None:
            json_path.write_text(json.dumps(to_json(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            err.print(f"written: {json_path}", style="dim")
        report(results, {name: blind_guess(name) for name in results}, figure=figure)


def open_source(name: str) -> Sequence[Sample]:
    """The samples of the held-out source of that name, or of a file. ValueError if it is neither."""
    from mutua.data.readers import EasyVQASource, JsonLinesSource, ScenesSource

    if name.endswith(".jsonl"):
        return JsonLinesSource(type="jsonl", path=Path(name)).open()
    if name not in HELD_OUT:
        raise ValueError(f"no data {name!r}: use {', '.join(HELD_OUT)}, or the path of a .jsonl file.")
    settings: dict[str, type[EasyVQASource] | type[ScenesSource]] = {"easy-vqa": EasyVQASource, "scenes": ScenesSource}
    return settings[name].model_validate(HELD_OUT[name]).open()


def measure(
    networks: Mapping[str, Any], sources: Mapping[str, Sequence[Sample]], *, limit: int | None, batch_size: int
) -> dict[str, dict[str, Accuracy]]:
    """Accuracy by source and model, with a progress bar for each pair, or lines where stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from mutua.evaluation import evaluate as score

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    results: dict[str, dict[str, Accuracy]] = {}
    printed = time.monotonic()
    with Progress(*columns, console=err) as bars:
        for source_name, samples in sources.items():
            for model_name, (network, processor) in networks.items():
                pair = f"{model_name} on {source_name}"
                task = bars.add_task(pair, total=None)

                def show(done: int, total: int, task: TaskID = task, pair: str = pair) -> None:
                    nonlocal printed
                    bars.update(task, completed=done, total=total)
                    if not err.is_terminal and time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                        printed = time.monotonic()
                        err.print(f"{pair}: {done} of {total}", markup=False, soft_wrap=True)

                results.setdefault(source_name, {})[model_name] = score(
                    network, processor, samples, limit=limit, batch_size=batch_size, progress=show
                )
    return results


def blind_guess(source: str) -> dict[str, float] | None:
    """By family, what the best guesser scores that never sees the picture; None for data without a train split."""
    from mutua.data.readers import EasyVQA, Scenes
    from mutua.evaluation.blind import blind_accuracy

    if source == "easy-vqa":
        return blind_accuracy(EasyVQA("train"), EasyVQA("test"))
    if source == "scenes":  # `item`: the question alone, nothing is drawn
        train, test = Scenes("train", 20_000), open_source("scenes")
        assert isinstance(test, Scenes)
        return blind_accuracy(map(train.item, range(len(train))), map(test.item, range(len(test))))
    return None


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


def to_json(results: Mapping[str, Mapping[str, Accuracy]]) -> dict[str, Any]:
    """Scores and every single answer, as plain JSON values."""
    return {
        source: {
            model: {**accuracy.summary(), "records": [vars(record) for record in accuracy.records]}
            for model, accuracy in by_model.items()
        }
        for source, by_model in results.items()
    }
