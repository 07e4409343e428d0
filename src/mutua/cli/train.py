"""`mutua train`: a recipe in, a model out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mutua.cli.common import FAILED, INTERRUPTED, err, report_errors

EXAMPLES = """Examples:

  mutua train recipes/quickstart.yaml

  mutua train recipes/quickstart.yaml --set train.steps=400 --set output=runs/c

  mutua train recipes/quickstart.yaml      (again: goes on where it was stopped)

  torchrun --nproc-per-node 8 --module mutua train recipes/aki-4b/sft.yaml      (on 8 GPUs, the model in shards)
"""


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What the run is; see docs/training.md.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one value of the recipe; repeatable."),
    ] = None,
) -> None:
    """Train a model. Stop it at any moment (Ctrl-C); the same command goes on, bit for bit."""
    rank = os.environ.get("RANK")  # torchrun's
    with report_errors(f"process {rank}: " if rank else ""):
        from mutua.training import load_recipe
        from mutua.training import train as run
        from mutua.world import EndedElsewhere

        try:
            result = run(load_recipe(recipe, overrides or []), err)
        except EndedElsewhere:
            raise typer.Exit(FAILED) from None
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
