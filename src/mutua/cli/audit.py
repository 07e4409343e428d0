"""`mutua audit`: a conversation token by token, as training and attention see it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mutua.cli.common import ModelOption, PolicyOption, out, report_errors

if TYPE_CHECKING:
    from mutua.data.sample import Sample
    from mutua.inspection.audit import Audit

EXAMPLES = """Examples:

  mutua audit chat.jsonl                                  (the first sample of a file)

  mutua audit chat.jsonl --sample 3 --policy causal

  mutua audit scene.png "is it red?" --template chat_template.jinja

  mutua audit chat.jsonl --json
"""
_COLOURS = {"prompt": "", "image": "magenta", "response": "green", "padding": "dim"}


def audit(
    words: Annotated[
        list[str], typer.Argument(metavar="SAMPLES.jsonl | IMAGE... QUESTION", help="A file, or as in mutua ask.")
    ],
    sample: Annotated[int, typer.Option("--sample", "-n", min=1, help="Which sample of the file, from 1.")] = 1,
    model: ModelOption = None,
    policy: PolicyOption = None,
    template: Annotated[
        Path | None, typer.Option("--template", "-t", help="Chat template to try instead of the model's own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, every token on its own.")] = False,
) -> None:
    """Show of every token who says it, whether it is trained on, and what it looks ahead to."""
    with report_errors():
        from mutua.api import load_processor
        from mutua.attention import get_policy
        from mutua.data.collate import encode, encode_prompts
        from mutua.inspection.audit import audit as audit_row

        chat = _sample(words, sample)
        config, processor = load_processor(model, policy=policy)
        if template is not None:
            processor.chat_template = template.read_text(encoding="utf-8")
        is_answered = chat.messages[-1].role == "assistant"
        batch = encode([chat], processor) if is_answered else encode_prompts([chat], processor)
        audited = audit_row(batch, processor.tokenizer, get_policy(config.attention_policy))
        summary = {
            "tokens": len(audited.tokens),
            "trained_on": audited.trained_on,
            "blocks": audited.blocks,
            "images": audited.images,
            "ahead_cells": audited.ahead_cells,
        }
        if as_json:
            record = {
                "policy": audited.policy,
                "summary": summary,
                "tokens": [asdict(token) for token in audited.tokens],
            }
            typer.echo(json.dumps(record, ensure_ascii=False))
            return
        _print(audited)
        typer.echo(
            f"tokens {summary['tokens']}, trained on {summary['trained_on']}, prompt blocks {summary['blocks']}, "
            f"images {summary['images']}, look-ahead cells {summary['ahead_cells']} (policy {audited.policy})"
        )


def _sample(words: list[str], number: int) -> Sample:
    from mutua.api import conversation
    from mutua.data.readers.jsonl import JsonLines
    from mutua.data.sample import Sample

    if len(words) > 1 or not words[0].endswith(".jsonl"):
        if number != 1:
            raise ValueError("--sample chooses from a .jsonl file; here is one question.")
        return Sample.model_validate({"id": "asked", "messages": conversation(words[:-1], words[-1])})
    samples = JsonLines(words[0])
    if number > len(samples):
        raise ValueError(f"{words[0]} holds {len(samples)} samples: there is no sample {number}.")
    return samples[number - 1]


def _print(audited: Audit) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("token", "text", "role", "block", "label", "looks ahead to", box=None, pad_edge=False)
    for line in audited.lines():
        first, last = line[0], line[-1]
        # Of a folded image: what any of its tokens sees behind it, and whether they see later ones of their own.
        seen = {span for token in line for span in token.looks_ahead}
        ahead = sorted({(max(start, last.index + 1), end) for start, end in seen if end > last.index})
        shown = [_span(start, end) for start, end in ahead]
        if any(start <= last.index for start, _ in seen):
            shown.insert(0, "itself")
        times = f" x {len(line)}" if len(line) > 1 else ""
        table.add_row(
            _span(first.index, last.index),
            Text(repr(first.text) + times),
            Text(first.role, style=_COLOURS[first.role]),
            "" if first.block is None else str(first.block),
            "trained on" if first.label else "",
            Text(", ".join(shown) + (f"  {_shortened(audited.text(ahead))}" if ahead else "")),
        )
    out.print(table)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _shortened(text: str, length: int = 40) -> str:
    return repr(text) if len(text) <= length else f"{text[: length // 2]!r} ... {text[-length // 2 :]!r}"
