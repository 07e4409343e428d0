"""`mutua eval`: how often models are right, by question family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mutua.cli.benchmarks import (
    CHECK_EXAMPLES,
    COMPARE_EXAMPLES,
    FIXTURES_EXAMPLES,
    SUITES,
    TasksOption,
    Wanted,
    check,
    compare,
    fixtures,
    run_suite,
)
from mutua.cli.common import PolicyOption, each_once, model_for_command, out, report_errors, result_file
from mutua.cli.progress import progress

if TYPE_CHECKING:
    from mutua.evaluation import Accuracy

eval_app = typer.Typer(
    help="Print accuracy per question family, greedy answers, exact match, with 95 % intervals; or, with --suite, ask "
    "the paper's benchmarks.",
    invoke_without_command=True,
)

EXAMPLES = """Examples:

  mutua eval     (the packaged model on the held-out data of what it was trained for)

  mutua eval -m runs/a/model -m runs/b/model --data scenes --limit 1000

  mutua eval --data mine.jsonl --json results.json --figure accuracy.png

  mutua eval -m models/mine --suite paper --data data/benchmarks --tasks pope

  torchrun --nproc-per-node 8 -m mutua eval --suite paper -d data/benchmarks
"""


@eval_app.callback(epilog=EXAMPLES)
def evaluate(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Folder or hub id of a Mutua model, or of another one, which --policy unlocks; repeatable. "
            "Default: the packaged one.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", "-d", help="easy-vqa, scenes, grid, or a file or folder of samples (docs/data.md); repeatable."
        ),
    ] = None,
    policy: PolicyOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions per source, spread evenly over it.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions per batch.")] = 64,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of an answer at most; 16. A suite has its own protocol.")
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write scores and every answer to this file.")
    ] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw the accuracies to this PNG.")] = None,
    suite: Annotated[
        str | None,
        typer.Option("--suite", help="paper: its twelve figures, of the benchmarks in the folder --data."),
    ] = None,
    tasks: TasksOption = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="Model that reads and grades replies of --suite; its key in OPENAI_API_KEY."),
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option("--judge-url", help="Its server, OpenAI-compatible. Default: OpenAI's own.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for answers and report of --suite. Default: runs/eval/MODEL."),
    ] = None,
) -> None:
    """Print accuracy per question family, greedy answers, exact match, with 95 % intervals; or ask a suite."""
    if context.invoked_subcommand is not None:
        with report_errors():
            _expect_none_before(context)
        return
    if suite is not None or tasks is not None:
        with report_errors():
            _expect_suite(suite, models, data, max_new_tokens, json_path, figure)
        folder = Path(data[0]) if data else None
        model = models[0] if models else None
        run_suite(Wanted(model, policy, folder, tasks, limit, batch_size, output, judge, judge_url))
        return
    with report_errors():
        for option, value in (("--output", output), ("--judge", judge), ("--judge-url", judge_url)):
            if value is not None:
                raise ValueError(f"{option} {value} is for --suite paper; here --json and --figure name files.")
        from mutua.world import process_count

        if process_count() > 1:
            raise ValueError("several processes share the questions of --suite; without it, run mutua eval in one.")
        from mutua.evaluation import OF_THE_PACKAGED_MODEL, blind_guess, measure, open_source, to_json
        from mutua.evaluation.accuracy import MAX_NEW_TOKENS
        from mutua.evaluation.report import figure as draw
        from mutua.figures import blank_figure

        # Whatever can be wrong is said now, not after an hour of questions.
        each_once("--model", models or [])
        sources = {name: open_source(name) for name in each_once("--data", data or OF_THE_PACKAGED_MODEL)}
        if figure is not None:
            blank_figure(1, 1)
        with result_file("--json", json_path) as save_json, result_file("--figure", figure, (".png",)) as save_figure:
            networks = {name or "packaged": model_for_command(name, policy) for name in models or (None,)}
            with progress() as show:
                results = measure(
                    networks,
                    sources,
                    limit=limit,
                    batch_size=batch_size,
                    max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
                    progress=show,
                )
            blind = {name: blind_guess(name) for name in results}
            report(results, blind)  # first: whatever becomes of the files
            text = json.dumps(to_json(results, blind), indent=1, ensure_ascii=False) + "\n"
            save_json(lambda path: path.write_text(text, encoding="utf-8"))
            save_figure(lambda path: draw(path, results, blind=blind))


def _expect_none_before(context: typer.Context) -> None:
    """Raises ValueError where options stand before a subcommand, which would not read them."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            command = f"mutua eval {context.invoked_subcommand}"
            raise ValueError(
                f"{parameter.opts[0]} stands before a command that does not read it: see {command} --help."
            )


def _expect_suite(
    suite: str | None,
    models: list[str] | None,
    data: list[str] | None,
    max_new_tokens: int | None,
    json_path: Path | None,
    figure: Path | None,
) -> None:
    """Raises ValueError where options are given that a suite has no use for, or too many of one."""
    if suite not in SUITES:
        raise ValueError(
            f"--suite {suite}: there is {', '.join(SUITES)}." if suite else "--tasks is for --suite paper."
        )
    for option, values in (("--model", models), ("--data", data)):
        if values and len(values) > 1:
            raise ValueError(f"{option} {values[1]}: with --suite it is given once; `mutua eval compare` compares.")
    for option, value in (("--max-new-tokens", max_new_tokens), ("--json", json_path), ("--figure", figure)):
        if value is not None:
            raise ValueError(f"{option} {value} is not for --suite: its protocol and its folder --output have it.")


def report(results: Mapping[str, Mapping[str, Accuracy]], blind: Mapping[str, Mapping[str, float] | None]) -> None:
    """One table per source on stdout."""
    from mutua.evaluation.report import table

    for source, by_model in results.items():
        out.print(table(by_model, blind=blind[source], title=source))


eval_app.command(name="check", epilog=CHECK_EXAMPLES)(check)
eval_app.command(name="fixtures", epilog=FIXTURES_EXAMPLES)(fixtures)
eval_app.command(name="compare", epilog=COMPARE_EXAMPLES)(compare)
