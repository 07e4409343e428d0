"""`mutua chat`: a conversation about pictures, turn by turn, that no input ends but /quit and the end of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutua.cli.common import (
    AnyModelOption,
    PolicyOption,
    err,
    is_terminal,
    model_for_command,
    report_errors,
    tell_how_it_ended,
)

if TYPE_CHECKING:
    from PIL.Image import Image

EXAMPLES = """Examples:

  mutua chat scene.png

  printf 'how many circles?\\nis there a red object?\\n' | mutua chat scene.png

In the chat: /image PATH adds a picture to your next message, /new starts over with the first pictures, /help lists the
commands, /quit (or Ctrl-D) ends. Ctrl-C stops an answer.
"""
_COMMANDS = """/image PATH  adds a picture to your next message
/new         starts over with the pictures of the command line
/help        this list
/quit        ends, as Ctrl-D does; Ctrl-C stops an answer"""


def chat(
    images: Annotated[list[str] | None, typer.Argument(metavar="IMAGE...", help="Pictures of the first turn.")] = None,
    model: AnyModelOption = None,
    policy: PolicyOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
) -> None:
    """Talk about pictures. Every turn sees the whole conversation; an image looks ahead only within its own turn."""
    with report_errors():
        from transformers import TextStreamer

        from mutua.api import reply
        from mutua.images import open_image

        pictures = [open_image(image) for image in images or []]
        network, processor = model_for_command(model, policy)

        def answer(messages: list[dict[str, Any]]) -> str:
            # A new one each time: one that was stopped still holds what it has not printed.
            streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
            said = reply(network, processor, messages, max_new_tokens=max_new_tokens, streamer=streamer)
            tell_how_it_ended(said)
            return said.text

        if isinstance(sys.stdin, TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # a line that is no text is refused where it stands
        talk = _Talk(images or [], pictures, answer)
        while (line := _read()) is not None and line != "/quit":
            try:
                talk.take(line)
            except BrokenPipeError:  # nobody reads on
                raise
            except (ValueError, OSError) as error:  # a slip of the fingers does not end a conversation
                _note(str(error), style="red")


class _Talk:
    """The conversation so far, and the pictures that wait for the next message."""

    def __init__(self, names: list[str], pictures: list[Image], answer: Callable[[list[dict[str, Any]]], str]) -> None:
        self.names, self.first, self.answer = names, pictures, answer
        self.messages: list[dict[str, Any]] = []
        self.pictures = list(pictures)

    def take(self, line: str) -> None:
        """A command or a message. Raises ValueError or OSError where it cannot be taken; then nothing has changed."""
        command, _, rest = line.replace("\t", " ").partition(" ")
        if command == "/new":
            self.messages, self.pictures = [], list(self.first)
            _note(f"a new conversation, with {', '.join(self.names) or 'no picture'}")
        elif command == "/image":
            self._add(rest.strip())
        elif command == "/help":
            _note(_COMMANDS)
        elif command.startswith("/"):
            raise ValueError(f"no command {command[:40]}: there are /image PATH, /new, /help and /quit.")
        elif line:
            self._ask(line)

    def _add(self, name: str) -> None:
        from mutua.images import open_image

        if not name:
            raise ValueError("/image needs the path of a picture, e.g. /image scene.png")
        picture = open_image(name)
        self.pictures.append(picture)
        _note(f"added {name} ({picture.width} x {picture.height}); pictures in your next message: {len(self.pictures)}")

    def _ask(self, question: str) -> None:
        from mutua.api import conversation

        asked = [*self.messages, *conversation(self.pictures, question)]
        try:
            said = self.answer(asked)
        except KeyboardInterrupt:
            print()  # behind what has been said
            _note("stopped; the question and the answer so far are left out of the conversation")
            return
        self.messages = [*asked, {"role": "assistant", "content": [{"type": "text", "text": said}]}]
        self.pictures = []


def _note(text: str, style: str = "dim") -> None:
    err.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _read() -> str | None:
    """The next line, stripped; None at the end of the input."""
    if sys.stdin is None:  # so Python has it where the input is closed
        return None
    try:
        return input("> " if is_terminal() else "").strip()
    except EOFError:
        return None
