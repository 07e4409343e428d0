"""What the commands share: what is printed and how, how mistakes are reported, a model loaded, a file written."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from mutua.console import LastingConsole

if TYPE_CHECKING:
    from mutua.api import Answer
    from mutua.attention import Policy

FAILED, INTERRUPTED = 1, 130
_UNLOCKED = "unlocked: its answers may be worse until it is trained under the new mask (docs/unlock.md)"
_WIDE = 10_000  # characters
_SPELLED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_CONTROLS = re.compile(f"[{''.join(map(chr, _SPELLED))}]+")

# As in `mutua.attention.POLICIES`, without the torch that importing it takes: `--help` is instant.
POLICY_NAMES = "causal, mma, mma-bidirectional, prefix, future-visual, future-text, future, concentric"

AnyModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Folder or hub id of a Mutua model, or of another one, which --policy unlocks (docs/unlock.md). "
        "Default: the packaged tiny one.",
    ),
]
PolicyOption = Annotated[
    str | None,
    typer.Option("--policy", "-p", help=f"Attention policy instead of the model's own: {POLICY_NAMES}."),
]


class PlainConsole(LastingConsole):
    """A console that prints what it is given: brackets and colons in a name are no markup, and no line of text is cut.

    Only a table on a terminal is fitted to a width; into a file or a pipe its cells, paths among them, go whole.
    Control characters are spelled: text and names are of whoever made the data, and a terminal would obey them.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        is_fitted = "COLUMNS" in os.environ or (stream is not None and stream.isatty())
        width = None if is_fitted else _WIDE
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    def print(self, *objects: Any, **settings: Any) -> None:
        is_text = all(isinstance(shown, str | Text) for shown in objects)
        super().print(*objects, **{"soft_wrap": is_text, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(text.translate(_SPELLED), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        return super().render(_spelled(renderable) if isinstance(renderable, Text) else renderable, options)

    def on_broken_pipe(self) -> None:
        if self.stderr:
            super().on_broken_pipe()
        else:  # what a command is asked for, behind `| head`: it ends
            Console.on_broken_pipe(self)


def _spelled(text: Text) -> Text:
    """The text with its styles and without control characters."""
    ends = [end for found in _CONTROLS.finditer(text.plain) for end in found.span()]
    pieces = text.divide(ends)
    for controls in pieces[1::2]:
        controls.plain = controls.plain.translate(_SPELLED)
    return text.blank_copy().join(pieces) if ends else text


out = PlainConsole()
err = PlainConsole(stderr=True)


@contextmanager
def report_errors(speaker: str = "") -> Iterator[None]:
    """Whatever the library refuses becomes one line and exit code 1; a bug of ours keeps its traceback.

    Args:
        speaker: who says so, where several processes print into one terminal.

    The library raises ValueError (of which its own errors are subclasses), ImportError for a missing extra and
    OSError for the file system, each with a message that names the remedy.
    """
    try:
        yield
    except BrokenPipeError:  # nobody reads on, as behind `| head`: Typer ends quietly
        raise
    except (KeyboardInterrupt, ValueError, ImportError, OSError) as error:
        if _is_interrupt(error):
            err.print("interrupted", style="yellow")
            raise typer.Exit(INTERRUPTED) from None
        if os.environ.get("MUTUA_DEBUG"):
            raise
        err.print(Text.assemble(speaker, ("error: ", "red"), str(error)))
        raise typer.Exit(FAILED) from None


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether it began with Ctrl-C: met while Transformers imports a module, that becomes an ImportError."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def model_for_command(name: str | None, policy: str | None = None, backend: str | None = None) -> tuple[Any, Any]:
    """`mutua.unlocking.open_model` with quiet libraries, and a word on stderr where the packaged model is meant, or one
    was unlocked just now."""
    from mutua.quiet import silence

    silence()
    from mutua.unlocking import is_unlocked, open_model

    if name is None:
        err.print("using the packaged tiny model (64 x 64 pictures of shapes); --model names another", style="dim")
    model, processor = open_model(name, policy, backend=backend)
    if policy is not None and is_unlocked(model):
        err.print(f"{name} is {_UNLOCKED}", style="dim")
    return model, processor


def load_any_processor(name: str | None, policy: str | None) -> tuple[Any, Policy]:
    """The processor of a model of anyone's, and the policy: this one, or the model's own, or mma where it has none.

    A word on stderr where the policy is not all that decides who sees whom.
    """
    from mutua.attention import get_policy
    from mutua.unlocking import is_foreign, load_foreign_processor, saved_policy

    if not is_foreign(name):
        from mutua.api import load_processor

        config, processor = load_processor(name, policy=policy)
        return processor, get_policy(config.attention_policy)
    foreign, processor = load_foreign_processor(str(name))
    if getattr(foreign.get_text_config(), "sliding_window", None):
        err.print(
            "shown over a causal mask: what else masks layers of this model (sliding windows) is not", style="dim"
        )
    return processor, get_policy(policy or saved_policy(foreign) or "mma")


def each_once(option: str, values: Sequence[str]) -> Sequence[str]:
    """The values of a repeatable option, of which each is one column, table or panel. ValueError if one comes twice."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{option} {value} is given twice: name each once.")
    return values


@contextmanager
def result_file(
    option: str, path: Path | None, suffixes: Sequence[str] = ()
) -> Iterator[Callable[[Callable[[Path], object]], None]]:
    """The file that an option names, tried before anything is computed for it; a function that writes it.

    The function is given another that writes to a path, as in `mutua.folders.whole_file`. With no `path` it does
    nothing.

    Raises:
        ValueError: the file has none of the `suffixes`, or it cannot be written.
    """
    if path is None:
        yield lambda write: None
        return
    from mutua.folders import FolderError, whole_file

    with ExitStack() as stack:
        try:
            save = stack.enter_context(whole_file(path))
        except FolderError as error:
            raise ValueError(f"{option} {error}") from error
        if suffixes and path.suffix.lower() not in suffixes:
            raise ValueError(f"{option} {path}: it is written as {' or '.join(suffixes)}; name a file that ends so.")

        def saved(write: Callable[[Path], object]) -> None:
            save(write)
            err.print(f"written: {path}", style="dim")

        yield saved


def make_folder(option: str, folder: Path) -> None:
    """The folder that an option names and everything goes into; ValueError where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option} {folder}: no folder can be made there ({error.strerror}); name another.") from error


def tell_how_it_ended(answer: Answer) -> None:
    """A word on stderr where an answer was cut, or holds nothing: neither shows in what was printed."""
    if answer.finish_reason == "length":
        err.print(f"(cut after {answer.tokens} tokens: --max-new-tokens allows more)", style="yellow")
    elif not answer.text:
        err.print("(an empty answer: the model ended its reply at once)", style="yellow")


def is_terminal() -> bool:
    """Whether a person is typing: scripts and pipes get plain text."""
    return sys.stdin.isatty() and sys.stdout.isatty()
