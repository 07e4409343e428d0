"""`mutua ask`: a question about pictures, the answer streamed as it is said."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from mutua.cli.common import AnyModelOption, PolicyOption, model_for_command, report_errors, tell_how_it_ended

EXAMPLES = """Examples:

  mutua ask scene.png "what colour is the object left of the small red circle?"

  mutua ask a.png b.png "which is red?" --model runs/mine/model

  mutua ask scene.png "how many circles are there?" --json
"""


def ask(
    images: Annotated[list[str] | None, typer.Argument(metavar="IMAGE...", help="Pictures, in order.")] = None,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes, the last word of the line.")] = "",
    model: AnyModelOption = None,
    policy: PolicyOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of streaming.")] = False,
) -> None:
    """Ask a question about one picture or several."""
    with report_errors():
        from transformers import TextStreamer

        from mutua.api import conversation, reply
        from mutua.unlocking import policy_of

        messages = conversation(images or [], question)  # a bad picture is reported before the model loads
        network, processor = model_for_command(model, policy)
        started = time.perf_counter()
        if not as_json:
            streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
            tell_how_it_ended(reply(network, processor, messages, max_new_tokens=max_new_tokens, streamer=streamer))
            return
        answer = reply(network, processor, messages, max_new_tokens=max_new_tokens)
        record = {
            "answer": answer.text,
            "finish_reason": answer.finish_reason,
            "tokens": answer.tokens,
            "question": question,
            "images": images or [],
            "model": model or "packaged",
            "policy": policy_of(network),
            "seconds": round(time.perf_counter() - started, 3),
        }
        typer.echo(json.dumps(record, ensure_ascii=False))
