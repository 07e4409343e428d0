"""`mutua quickstart`: an MMA model and its causal twin, from nothing to a table, a figure and a picture, in minutes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from mutua.cli.common import err, make_folder, out, report_errors, result_file

EXAMPLES = """Examples:

  mutua quickstart

  mutua quickstart --minutes 5 --seed 7 --output runs/another
"""


def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for models, table, figure and picture.")] = Path(
        "runs/quickstart"
    ),
    minutes: Annotated[
        float, typer.Option(min=1, max=1440, help="How long it may take; steps are fitted to it when it begins.")
    ] = 10,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of weights and data; another one is another experiment. Default: 0.")
    ] = None,
) -> None:
    """Train an MMA model and its causal twin (same start, data, steps), and see where the two differ; then ask the
    packaged model and its causal twin, which have been trained far longer.

    Stopped? The same command goes on.
    """
    started = time.monotonic()
    with report_errors():
        from mutua.evaluation.paired import paired_rows, paired_table
        from mutua.figures import blank_figure
        from mutua.study.comparison import comparison_figure
        from mutua.study.first_run import draw_difference, train_pair
        from mutua.study.packaged_pair import SAMPLES, ask_packaged_pair
        from mutua.study.plan import BASELINE, METHOD

        blank_figure(1, 1)
        make_folder("--output", output)
        results, figure, scene, looks = (
            output / name for name in ("results.json", "comparison.png", "scene.png", "look.png")
        )
        with result_file("--output", results) as save_results, result_file("--output", figure) as save_figure:
            pair = train_pair(output / "live", seed, 60 * minutes - (time.monotonic() - started), err.print)
            rows = paired_rows(pair.answers[METHOD], pair.answers[BASELINE])
            samples = f"{pair.samples:,} samples"
            out.print(paired_table(rows, METHOD, BASELINE, title=f"after {samples}, on held-out grid scenes"))
            compared = {f"after {samples}: grid": rows}
            for source, answers in ask_packaged_pair(output / "packaged", err.print).items():
                rows = paired_rows(answers[METHOD], answers[BASELINE])
                title = f"the packaged pair, after {SAMPLES:,} samples, on held-out {source}"
                out.print(paired_table(rows, METHOD, BASELINE, title=title))
                compared[f"packaged pair: {source}"] = rows
            drawn = comparison_figure(pair.curves, compared, policy=METHOD, baseline=BASELINE)
            save_figure(lambda path: drawn.savefig(path))
            live = {policy: [vars(record) for record in one.records] for policy, one in pair.answers.items()}
            text = json.dumps({"seed": pair.seed, "steps": pair.steps, "answers": live}) + "\n"
            save_results(lambda path: path.write_text(text, encoding="utf-8"))
        asked = draw_difference(pair, scene, looks)
        said = ", ".join(f"{policy} says {answer!r}" for policy, answer in asked.said.items())
        differ = len(set(asked.said.values())) > 1
        out.print(
            f"\nOne question {'on which they differ' if differ else 'of many that both answer alike'}: "
            f"{asked.question!r} about {scene}"
        )
        out.print(f"{said}; right is {asked.answer!r}. Where each of them looks: {looks}")
        mine, twin = pair.models[METHOD], pair.models[BASELINE]
        out.print("\nTry next:", style="bold")
        out.print(f'  mutua ask {scene} "{asked.question}" -m {mine}')
        out.print(f'  mutua look {scene} "any red circle?" -m {mine} -m {twin} -o {output / "another.png"}')
        out.print(f"  mutua study --out {output / 'study'}     (more seeds, and a report with intervals)")
