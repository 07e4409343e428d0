"""`mutua look`: where in a picture models look as they begin to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mutua.cli.common import (
    POLICY_NAMES,
    each_once,
    model_for_command,
    out,
    report_errors,
    result_file,
    tell_how_it_ended,
)

EXAMPLES = """Examples:

  mutua look scene.png "what shape is the pink object?" -o look.png

  mutua look scene.png "is it red?" -m runs/a/model -m runs/b/model -o look.png

  mutua look scene.png "is it red?" --answer no -p mma -p causal -o look.png
"""


def look(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="One picture.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG or SVG to draw.")],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="Folder or hub id of a Mutua model; repeatable. Default: the packaged tiny one."
        ),
    ] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", "-p", help=f"Attention policy instead of the model's own; repeatable: {POLICY_NAMES}."
        ),
    ] = None,
    answer: Annotated[str | None, typer.Option("--answer", help="The right answer: titles say who has it.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
) -> None:
    """Draw where in a picture the answer looks: attention rollout over all layers, one panel a model and policy."""
    with report_errors():
        from mutua.api import conversation, reply
        from mutua.attention import get_policy
        from mutua.evaluation.accuracy import is_right
        from mutua.figures import blank_figure
        from mutua.images import open_image
        from mutua.inspection.attention_weights import expect_own
        from mutua.inspection.draw_looks import Said, draw_looks
        from mutua.inspection.looks import expect_patch_grid, looks_of
        from mutua.unlocking import is_foreign, load_foreign_processor

        # Whatever can be wrong is said before a model is loaded.
        opened = open_image(picture)
        messages = conversation(opened, question)
        for policy in each_once("--policy", policies or []):
            get_policy(policy)
        for folder in each_once("--model", models or []):
            if is_foreign(folder):
                expect_own(load_foreign_processor(folder)[0])
        blank_figure(1, 1)
        maps, answers = {}, {}
        with result_file("--output", output, (".png", ".svg")) as save:
            for name in models or (None,):
                network, processor = model_for_command(name)
                expect_patch_grid(network.config)
                for policy in policies or [network.config.attention_policy]:
                    network.config.attention_policy = policy
                    panel = policy if len(models or []) < 2 else f"{name} ({policy})"
                    said = reply(network, processor, messages, max_new_tokens=max_new_tokens)
                    out.print(f"{panel}: {said.text}")
                    tell_how_it_ended(said)
                    maps[panel] = looks_of(network, processor, [messages]).rollout_BSS[0]
                    answers[panel] = Said(said.text, None if answer is None else is_right(said.text, answer))
            save(lambda path: draw_looks(path, opened, question, maps, answers))
