"""The `mutua` command. One file a command; each imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import typer

from mutua.cli import (
    ask,
    audit,
    chat,
    convert,
    data,
    doctor,
    evaluate,
    leakage,
    look,
    mask,
    plan,
    quickstart,
    study,
    train,
    unlock,
)

app = typer.Typer(
    name="mutua",
    help="Modality-mutual attention for multimodal language models: ask, train, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="ask", epilog=ask.EXAMPLES)(ask.ask)
app.command(name="chat", epilog=chat.EXAMPLES)(chat.chat)
app.command(name="train", epilog=train.EXAMPLES)(train.train)
app.command(name="plan", epilog=plan.EXAMPLES)(plan.plan)
app.add_typer(evaluate.eval_app, name="eval")
app.add_typer(data.data_app, name="data")
app.command(name="leakage", epilog=leakage.EXAMPLES)(leakage.leakage)
app.command(name="look", epilog=look.EXAMPLES)(look.look)
app.command(name="audit", epilog=audit.EXAMPLES)(audit.audit)
app.command(name="mask", epilog=mask.EXAMPLES)(mask.mask)
app.command(name="unlock", epilog=unlock.EXAMPLES)(unlock.unlock)
app.add_typer(convert.convert_app, name="convert")
app.add_typer(convert.export_app, name="export")
app.command(name="quickstart", epilog=quickstart.EXAMPLES)(quickstart.quickstart)
app.command(name="study", epilog=study.EXAMPLES)(study.study)
app.command(name="doctor", epilog=doctor.EXAMPLES)(doctor.doctor)


@app.callback(invoke_without_command=True)
def main(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: no text ends a command for its letters
    if version:
        from mutua import __version__

        typer.echo(__version__)
        raise typer.Exit
