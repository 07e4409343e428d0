"""`mutua convert` and `mutua export`: checkpoints of other code as models of ours, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mutua.cli.common import err, out, report_errors

CONVERT_EXAMPLES = """Examples:

  mutua convert aki AKI-4B-phi-3.5-mini models/aki-4b     (a downloaded folder)

  mutua convert aki AKI-4B-phi-3.5-mini models/aki-4b --vision-encoder siglip/

  mutua ask -m models/aki-4b photo.jpg "What is on the table?"
"""
EXPORT_EXAMPLES = """Examples:

  mutua export aki models/aki-4b released-again

  mutua export aki runs/mine/model released-mine --converted models/aki-4b
"""

convert_app = typer.Typer(help="Checkpoints of other code, as Mutua models.", no_args_is_help=True)
export_app = typer.Typer(help="Mutua models, in the format of other code.", no_args_is_help=True)

Target = Annotated[Path, typer.Argument(metavar="DST", help="A new folder; it appears when it is complete.")]


@convert_app.command(name="aki", epilog=CONVERT_EXAMPLES)
def convert_aki(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder as published: config.json, safetensors, ...")],
    target: Target,
    vision_encoder: Annotated[
        str | None, typer.Option(help="Folder or hub id of the vision encoder's config.json, if not as SRC says.")
    ] = None,
    language_model: Annotated[
        str | None, typer.Option(help="Folder or hub id of the language model's config.json, if not as SRC says.")
    ] = None,
) -> None:
    """Convert the released AKI checkpoint (Sony/AKI-4B-phi-3.5-mini)."""
    with report_errors():
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        from mutua.convert.aki import convert

        with Progress("writing", BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=err) as bars:
            task = bars.add_task("writing", total=None)
            convert(
                source,
                target,
                vision_encoder,
                language_model,
                lambda done, total: bars.update(task, completed=done, total=total),
            )
        has_tokenizer = (target / "tokenizer.json").is_file()
    out.print(f"{target}: a Mutua model, policy mma.")
    if not has_tokenizer:
        out.print(f"{source} has no tokenizer files, so neither has the model: `mutua ask` needs them.", style="yellow")


@export_app.command(name="aki", epilog=EXPORT_EXAMPLES)
def export_aki(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of a converted model, trained on or not.")],
    target: Target,
    converted: Annotated[
        Path | None, typer.Option(help="Folder that `mutua convert aki` wrote, if SRC was saved from it later.")
    ] = None,
) -> None:
    """Write the released AKI format; a model that was only converted comes back bit for bit."""
    with report_errors():
        from mutua.convert.aki_export import export

        with err.status("writing"):
            export(source, target, converted)
    out.print(f"{target}: the released AKI format.")
