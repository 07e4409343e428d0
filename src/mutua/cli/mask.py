"""`mutua mask`: a picture of who sees whom in a conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mutua.cli.common import POLICY_NAMES, each_once, report_errors, result_file

EXAMPLES = """Examples:

  mutua mask                                           (in the terminal)

  mutua mask -p causal -p mma -p prefix -o mask.png    (a picture)

  mutua mask chat.jsonl --image-tokens 9 -o mask.svg   (a chat of yours)
"""

_EXAMPLE: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "which is red?"}]},
    {"role": "assistant", "content": "the small circle"},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and here?"}]},
    {"role": "assistant", "content": "none"},
]


def mask(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="SAMPLES.jsonl", help="Draw its first sample. Default: a chat of two turns."),
    ] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option("--policy", "-p", help=f"Policy to draw; repeatable: {POLICY_NAMES}. Default: causal and mma."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="PNG or SVG. Default: the terminal.")] = None,
    image_tokens: Annotated[int, typer.Option(min=1, help="Tokens that stand for an image.")] = 4,
) -> None:
    """Draw the attention mask of a conversation, policies side by side: words stand for tokens, no model is loaded."""
    with report_errors():
        from mutua.attention import get_policy
        from mutua.inspection.draw import as_figure, as_text, sketch

        chosen = [get_policy(name) for name in each_once("--policy", policies or ("causal", "mma"))]
        drawn = sketch(_EXAMPLE if file is None else _first_sample(file), image_tokens)
        if output is None:
            for policy in chosen:
                typer.echo(as_text(drawn, policy) + "\n")
        else:
            with result_file("--output", output, (".png", ".svg")) as save:
                save(lambda path: as_figure(drawn, chosen, path))


def _first_sample(file: Path) -> list[dict[str, Any]]:
    """The messages of the first line; the pictures need not be there."""
    from mutua.data.readers import JsonLines

    samples = JsonLines(file)
    if not samples:
        raise ValueError(f"{file} holds no sample.")
    return samples.without_images(0).chat()
