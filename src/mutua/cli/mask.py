"""`mutua mask`: a picture of who sees whom in a conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mutua.cli.common import err, report_errors

EXAMPLES = """Examples:

  mutua mask                                         (a chat of two turns, in the terminal)

  mutua mask -p causal -p mma -o mask.png

  mutua mask chat.jsonl --image-tokens 9 -o mask.svg (the first sample of a file)
"""

_EXAMPLE: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "which is red?"}]},
    {"role": "assistant", "content": "the small circle"},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and here?"}]},
    {"role": "assistant", "content": "none"},
]


def mask(
    file: Annotated[Path | None, typer.Argument(metavar="[SAMPLES.jsonl]", help="Draw its first sample.")] = None,
    policies: Annotated[
        list[str] | None, typer.Option("--policy", "-p", help="Policy to draw; repeatable. Default: causal and mma.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="PNG or SVG. Default: the terminal.")] = None,
    image_tokens: Annotated[int, typer.Option(min=1, help="Tokens that stand for an image.")] = 4,
) -> None:
    """Draw the attention mask of a conversation, policies side by side."""
    with report_errors():
        from mutua.attention import get_policy
        from mutua.inspection.draw import as_figure, as_text, sketch

        chosen = [get_policy(name) for name in policies or ("causal", "mma")]
        drawn = sketch(_EXAMPLE if file is None else _first_sample(file), image_tokens)
        if output is None:
            for policy in chosen:
                typer.echo(as_text(drawn, policy) + "\n")
        elif output.suffix.lower() not in (".png", ".svg"):
            raise ValueError(f"{output}: a mask is drawn as .png or .svg.")
        else:
            as_figure(drawn, chosen, output)
            err.print(f"drawn: {output}", style="dim")


def _first_sample(file: Path) -> list[dict[str, Any]]:
    """The messages of the first line; the pictures need not be there."""
    from mutua.data.readers import JsonLines

    samples = JsonLines(file)
    if not samples:
        raise ValueError(f"{file} holds no sample.")
    return samples.without_images(0).chat()
