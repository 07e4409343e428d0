"""`mutua quickstart`: an MMA model and its causal twin, from nothing to a table, a figure and a picture, in minutes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from mutua.cli.common import err, out, report_errors, result_file

EXAMPLES = """Examples:

  mutua quickstart

  mutua quickstart --minutes 5 --seed 7 --output runs/another
"""


def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for models, table, figure and picture.")] = Path(
        "runs/quickstart"
    ),
    minutes: Annotated[float, typer.Option(min=1, help="How long it may take; steps are fitted to it.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and data; another one is another experiment.")] = 0,
) -> None:
    """Train an MMA model and its causal twin (same start, data, steps), and see where the two differ.

    Then the same for a pair of packaged models that were trained for hours. Stopped? The same command goes on.
    """
    started = time.monotonic()
    with report_errors():
        from mutua.figures import blank_figure
        from mutua.study.comparison import comparison_figure, paired_rows, paired_table
        from mutua.study.first_run import train_pair
        from mutua.study.plan import BASELINE, METHOD

        blank_figure(1, 1)
        make_folder(output)
        results_json, figure_png = output / "results.json", output / "comparison.png"
        with result_file("--output", results_json) as save_json, result_file("--output", figure_png) as save_figure:
            live = train_pair(output / "live", seed, 60 * minutes - (time.monotonic() - started), err.print)
            rows = paired_rows(live.answers[METHOD], live.answers[BASELINE])
            out.print(paired_table(rows, METHOD, BASELINE, title="just trained, on held-out grid scenes"))
            figure = comparison_figure(live.curves, {"just trained": rows}, policy=METHOD, baseline=BASELINE)
            save_figure(lambda path: figure.savefig(path))
            answers = {policy: [vars(record) for record in one.records] for policy, one in live.answers.items()}
            text = json.dumps({"seed": seed, "steps": live.steps, "answers": answers}) + "\n"
            save_json(lambda path: path.write_text(text, encoding="utf-8"))


def make_folder(folder: Path) -> None:
    """The folder that everything goes into; ValueError where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output {folder}: no folder can be made there ({error.strerror}); name another.") from error
