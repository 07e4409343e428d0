"""What the commands share: how a user's mistake is reported, how a model is loaded, the options with one meaning."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from mutua import MutuaForConditionalGeneration, MutuaProcessor
    from mutua.api import Answer

FAILED, INTERRUPTED = 1, 130

out = Console()
err = Console(stderr=True)

ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Folder or hub id of a Mutua model. Default: the packaged tiny one.")
]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", "-p", help="Attention policy instead of the model's own: mma or causal.")
]


@contextmanager
def report_errors() -> Iterator[None]:
    """Whatever the library refuses becomes one line and exit code 1; a bug of ours keeps its traceback.

    The library raises ValueError (of which its own errors are subclasses), ImportError for a missing extra and
    OSError for the file system, each with a message that names the remedy.
    """
    try:
        yield
    except KeyboardInterrupt:
        err.print("interrupted", style="yellow")
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, ImportError, OSError) as error:
        if os.environ.get("MUTUA_DEBUG"):
            raise
        err.print(f"[red]error:[/red] {_escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(FAILED) from None


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def load_model(name: str | None, policy: str | None) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """`mutua.load` for a command: quiet libraries, and a word on stderr when the packaged model is meant."""
    from mutua.api import load
    from mutua.quiet import silence

    silence()
    if name is None:
        err.print("using the packaged tiny model (64 x 64 pictures of shapes); --model names another", style="dim")
    return load(name, policy=policy)


def tell_how_it_ended(answer: Answer) -> None:
    """A word on stderr where an answer was cut, or holds nothing: neither shows in what was printed."""
    if answer.finish_reason == "length":
        err.print(f"(cut after {answer.tokens} tokens: --max-new-tokens allows more)", style="yellow")
    elif not answer.text:
        err.print("(an empty answer: the model ended its reply at once)", style="yellow")


def is_terminal() -> bool:
    """Whether a person is typing: scripts and pipes get plain text."""
    return sys.stdin.isatty() and sys.stdout.isatty()
