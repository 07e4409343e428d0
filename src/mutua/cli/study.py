"""`mutua study`: the controlled comparison of attention policies, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mutua.cli.common import POLICY_NAMES, each_once, err, make_folder, out, report_errors

EXAMPLES = """Examples:

  mutua study     (the quick one: causal and mma, two seeds)

  mutua study --full --out runs/study     (every question of docs/study/protocol.md: hours; stop it and go on at will)

  mutua study --policies causal,prefix --seeds 3 --out runs/prefix
"""


def study(
    full: Annotated[
        bool, typer.Option("--full/--quick", help="Every question of the protocol, or the effect and nothing else.")
    ] = False,
    policies: Annotated[
        str | None, typer.Option("--policies", help=f"With commas between; causal is the baseline. Of {POLICY_NAMES}.")
    ] = None,
    backbones: Annotated[
        str | None, typer.Option("--backbones", help="Families of the language model: llama, qwen3, phi3.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Of the main arms. Default: 2, and 5 with --full.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder for models, CSV files and the report.")] = Path(
        "runs/study"
    ),
    processes: Annotated[
        int | None, typer.Option(min=1, help="Models trained at once. Default: one for each core or GPU.")
    ] = None,
) -> None:
    """Train arms that differ in the attention policy alone, and report differences with intervals.

    Only what is missing in --out is done, so a study may be stopped, continued and enlarged.
    """
    with report_errors():
        from mutua.figures import blank_figure
        from mutua.study.plan import full_plan, quick_plan
        from mutua.study.run import run_study

        given: dict[str, Any] = {}
        if policies is not None:
            given["policies"] = each_once("--policies", policies.split(","))
        if backbones is not None:
            given["backbones"] = each_once("--backbones", backbones.split(","))
        if seeds:
            given["seeds"] = seeds
        blank_figure(1, 1)  # or hours would pass before it is said that the report cannot be drawn
        plan = full_plan(**given) if full else quick_plan(**given)
        make_folder("--out", folder)
        report = run_study(plan, folder, err.print, processes)
        out.print(f"report: {report}")
