"""`mutua audit`: a conversation, or the first batch of a recipe, as training and attention see it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutua.cli.common import AnyModelOption, PolicyOption, load_any_processor, out, report_errors
from mutua.shortened import shortened

if TYPE_CHECKING:
    from mutua.attention import Policy
    from mutua.data.sample import Sample
    from mutua.inspection.audit import Audit, Token

EXAMPLES = """Examples:

  mutua audit chat.jsonl                                  (the first sample of a file)

  mutua audit chat.jsonl --sample 3 --policy causal

  mutua audit scene.png "is it red?" --template chat_template.jinja

  mutua audit chat.jsonl --json

  mutua audit recipes/quickstart.yaml                     (the first rows that a run would train on)
"""
_ROWS = ("input_ids", "token_type_ids", "token_roles", "labels")
_COLOURS = {"prompt": "", "image": "magenta", "response": "green", "padding": "dim"}


def audit(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SAMPLES.jsonl | RECIPE.yaml | IMAGE... QUESTION", help="A file, a recipe, or as in mutua ask."
        ),
    ],
    sample: Annotated[
        int, typer.Option("--sample", "-n", min=1, help="Which sample of the file, or row of the batch, from 1.")
    ] = 1,
    model: AnyModelOption = None,
    policy: PolicyOption = None,
    template: Annotated[
        Path | None, typer.Option("--template", "-t", help="Chat template to try instead of the model's own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, every token on its own.")] = False,
) -> None:
    """Show of every token who says it, whether it is trained on, and what it looks ahead to."""
    with report_errors():
        from mutua.inspection.audit import audit as audit_row

        is_recipe = words[0].endswith((".yaml", ".yml"))
        read = _first_rows if is_recipe else _conversation
        row, tokenizer, chosen = read(words, sample, model, policy, template)
        audited = audit_row(row, tokenizer, chosen)
        summary = {
            "tokens": len(audited.tokens) - audited.padding,
            "padding": audited.padding,
            "documents": audited.documents,
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
        _print(audited, audited.passages() if is_recipe else audited.lines())
        packed = f"documents {audited.documents}, padding {audited.padding}, " if is_recipe else ""
        typer.echo(
            f"{packed}tokens {summary['tokens']}, trained on {audited.trained_on}, prompt blocks {audited.blocks}, "
            f"images {audited.images}, look-ahead cells {audited.ahead_cells} (policy {audited.policy})"
        )


def _conversation(
    words: list[str], number: int, model: str | None, policy: str | None, template: Path | None
) -> tuple[dict[str, Any], Any, Policy]:
    """One sample as a batch, the tokenizer and the policy."""
    from mutua.data.collate import encode, encode_prompts

    chat = _sample(words, number)
    processor, chosen = load_any_processor(model, policy)
    if template is not None:
        processor.chat_template = template.read_text(encoding="utf-8")
    is_answered = chat.messages[-1].role == "assistant"
    batch = encode([chat], processor) if is_answered else encode_prompts([chat], processor)
    return batch, processor.tokenizer, chosen


def _first_rows(
    words: list[str], number: int, model: str | None, policy: str | None, template: Path | None
) -> tuple[dict[str, Any], Any, Policy]:
    """A row of the first batch of a recipe, its tokenizer and its policy."""
    from mutua.attention import get_policy
    from mutua.training import load_recipe
    from mutua.training.preview import first_step

    for name, given in {"--model": model, "--template": template, "more than one argument": words[1:] or None}.items():
        if given is not None:
            raise ValueError(f"{name} does not go with a recipe, which says all that decides what a batch holds.")
    own, processor, batch = first_step(load_recipe(words[0]))
    rows = [{key: x[row : row + 1] for key, x in some.items() if key in _ROWS} for some in batch.micro_batches
            for row in range(len(some["input_ids"]))]  # fmt: skip
    if number > len(rows):
        raise ValueError(f"the first batch of {words[0]} has {len(rows)} rows: there is no row {number}.")
    return rows[number - 1], processor.tokenizer, get_policy(policy or own)


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


def _print(audited: Audit, lines: list[list[Token]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("token", "text", "role", "block", "label", "looks ahead to", box=None, pad_edge=False)
    document = None
    for line in lines:
        first, last = line[0], line[-1]
        # Of a folded image: what any of its tokens sees behind it, and whether they see later ones of their own.
        seen = {span for token in line for span in token.looks_ahead}
        ahead = sorted({(max(start, last.index + 1), end) for start, end in seen if end > last.index})
        shown = [_span(start, end) for start, end in ahead]
        if any(start <= last.index for start, _ in seen):
            shown.insert(0, "itself")
        is_folded = first.image is not None or first.role == "padding"
        text = repr(first.text) + f" x {len(line)}" * (len(line) > 1)
        if not is_folded and len(line) > 1:
            text = repr(shortened("".join(token.text for token in line)))
        if audited.documents > 1 and first.document != document:
            table.add_section()
            table.add_row("", Text(_heading(first.document), style="bold"))
            document = first.document
        table.add_row(
            _span(first.index, last.index),
            Text(text),
            Text(first.role, style=_COLOURS[first.role]),
            "" if first.block is None else str(first.block),
            "trained on" if first.label else "",
            Text(", ".join(shown) + (f"  {shortened(audited.text(ahead), 40)!r}" if ahead else "")),
        )
    out.print(table)


def _heading(document: int | None) -> str:
    return "padding" if document is None else f"document {document}"


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
