"""`mutua mask`: a picture of who sees whom in a conversation, in words or in a model's own tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutua.cli.common import POLICY_NAMES, each_once, load_any_processor, report_errors, result_file

if TYPE_CHECKING:
    from mutua.data.sample import Sample
    from mutua.inspection.draw import Sketch

EXAMPLES = """Examples:

  mutua mask                                           (in the terminal)

  mutua mask -p causal -p mma -p prefix -o mask.png    (a picture)

  mutua mask chat.jsonl --image-tokens 9 -o mask.svg   (a chat of yours)

  mutua mask --model models/llava -p mma -o mask.png   (the tokens of that model)
"""

_SIDE = 64  # pixels of the example's pictures


def _example(picture: Any = None) -> list[dict[str, Any]]:
    image = {"type": "image", "image": picture}
    return [
        {"role": "user", "content": [image, {"type": "text", "text": "which is red?"}]},
        {"role": "assistant", "content": "the small circle"},
        {"role": "user", "content": [image, {"type": "text", "text": "and here?"}]},
        {"role": "assistant", "content": "none"},
    ]


def mask(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="SAMPLES.jsonl", help="Draw its first sample. Default: a chat of two turns."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Draw its tokens: folder or hub id of a Mutua model, or of another one (docs/unlock.md). Default: "
            "words stand for tokens.",
        ),
    ] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option("--policy", "-p", help=f"Policy to draw; repeatable: {POLICY_NAMES}. Default: causal and mma."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="PNG or SVG. Default: the terminal.")] = None,
    image_tokens: Annotated[int, typer.Option(min=1, help="Tokens that an image is cut to.")] = 4,
) -> None:
    """Draw the attention mask of a conversation, policies side by side: in words, or in the tokens of a model, of which
    no weight is read."""
    with report_errors():
        from mutua.attention import get_policy
        from mutua.inspection.draw import as_figure, as_text

        chosen = [get_policy(name) for name in each_once("--policy", policies or ("causal", "mma"))]
        drawn = _in_words(file, image_tokens) if model is None else _in_tokens(file, image_tokens, model)
        if output is None:
            for policy in chosen:
                typer.echo(as_text(drawn, policy) + "\n")
        else:
            with result_file("--output", output, (".png", ".svg")) as save:
                save(lambda path: as_figure(drawn, chosen, path))


def _in_words(file: Path | None, image_tokens: int) -> Sketch:
    from mutua.inspection.draw import sketch

    return sketch(_example() if file is None else _first_sample(file, with_pictures=False).chat(), image_tokens)


def _in_tokens(file: Path | None, image_tokens: int, model: str) -> Sketch:
    from PIL import Image

    from mutua.data.collate import encode
    from mutua.data.sample import Sample
    from mutua.inspection.draw import sketch_batch

    processor, _ = load_any_processor(model, None)
    if file is None:
        messages = _example(Image.new("RGB", (_SIDE, _SIDE)))
        sample = Sample.model_validate({"id": "example", "messages": messages})
    else:
        sample = _first_sample(file, with_pictures=True)
    return sketch_batch(encode([sample], processor), processor.tokenizer, image_tokens)


def _first_sample(file: Path, with_pictures: bool) -> Sample:
    """The first line's; where only words are drawn, the pictures need not be there."""
    from mutua.data.readers import JsonLines

    samples = JsonLines(file)
    if not samples:
        raise ValueError(f"{file} holds no sample.")
    return samples[0] if with_pictures else samples.without_images(0)
