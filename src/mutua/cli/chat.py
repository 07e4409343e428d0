"""`mutua chat`: a conversation about pictures, turn by turn."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mutua.cli.common import ModelOption, PolicyOption, err, is_terminal, load_model, report_errors, tell_how_it_ended

EXAMPLES = """Examples:

  mutua chat scene.png

  printf 'how many circles are there?\\nis there a red object?\\n' | mutua chat scene.png

In the chat: /image PATH adds a picture to your next message, /new starts over, /quit (or Ctrl-D) ends.
"""


def chat(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Pictures of the first turn.")
    ] = None,
    model: ModelOption = None,
    policy: PolicyOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
) -> None:
    """Talk about pictures. Every turn sees the whole conversation; an image looks ahead only within its own turn."""
    with report_errors():
        from transformers import TextStreamer

        from mutua.api import conversation, reply
        from mutua.images import open_image

        pictures = [open_image(image) for image in images or []]
        network, processor = load_model(model, policy)
        streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        messages: list[dict[str, Any]] = []
        while (line := _read()) is not None:
            command, _, rest = line.partition(" ")
            if command == "/quit":
                break
            try:
                if command == "/new":
                    messages, pictures = [], []
                elif command == "/image":
                    pictures.append(open_image(rest.strip()))
                elif command.startswith("/"):
                    raise ValueError(f"no command {command}: there are /image PATH, /new and /quit.")
                elif line:
                    asked = [*messages, *conversation(pictures, line)]
                    said = reply(network, processor, asked, max_new_tokens=max_new_tokens, streamer=streamer)
                    tell_how_it_ended(said)
                    messages = [*asked, {"role": "assistant", "content": [{"type": "text", "text": said.text}]}]
                    pictures = []
            except ValueError as error:  # a slip of the fingers does not end a conversation
                err.print(str(error), style="red", markup=False)


def _read() -> str | None:
    """The next line, stripped; None at the end of the input."""
    try:
        return input("> " if is_terminal() else "").strip()
    except EOFError:
        return None
