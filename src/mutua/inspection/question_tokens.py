"""Prompts in tokens, and which of the tokens are the question: what the user wrote, not what the template put there.

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mutua.models import MutuaProcessor

Messages = Sequence[Mapping[str, Any]]

_FIRST_MARK = 0xE000  # of Unicode's private use: no text means anything by it


@dataclass(frozen=True)
class AskedPrompts:
    """Prompts that wait for a reply.

    Attributes:
        inputs: what the model takes.
        is_question_BN: bool, true on the text of the last user message.
    """

    inputs: dict[str, Tensor]
    is_question_BN: Tensor


def encode_asked(
    conversations: Sequence[Messages], processor: MutuaProcessor, padding_side: Literal["left", "right"] = "left"
) -> AskedPrompts:
    """Conversations in Transformers' chat format, each ending with a user message, in tokens.

    Raises:
        ValueError: the last message is not the user's, or the chat template says its text twice.
    """
    batch = processor.apply_chat_template(
        list(conversations),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding_side": padding_side, "return_offsets_mapping": True},
    )
    starts_BN, ends_BN = batch.pop("offset_mapping").unbind(-1)
    is_question_BN = torch.zeros_like(starts_BN, dtype=torch.bool)
    for row, messages in enumerate(conversations):
        for first, last in _question_spans(messages, processor):
            is_question_BN[row] |= (starts_BN[row] < last) & (ends_BN[row] > first)
    return AskedPrompts(dict(batch), is_question_BN)


def with_question(messages: Messages, question: str) -> list[Mapping[str, Any]]:
    """The conversation with another text in its last user message, the pictures as they are, text in the same place."""
    *before, last = messages
    if isinstance(last["content"], str):
        return [*before, {**last, "content": question}]
    texts = [place for place, part in enumerate(last["content"]) if part["type"] == "text"]
    parts = [
        {"type": "text", "text": question} if place == texts[0] else part
        for place, part in enumerate(last["content"])
        if place not in texts[1:]
    ]
    return [*before, {**last, "content": parts}]


def _question_spans(messages: Messages, processor: MutuaProcessor) -> list[tuple[int, int]]:
    """Characters (start, end) of each text of the last message, in the text that is tokenized.

    Found by rendering the chat a second time, with a mark in the place of each text.
    """
    *before, last = messages
    if last["role"] != "user":
        raise ValueError(f"the last message is from the {last['role']}: a prompt that ends with a question is needed.")
    parts = [{"type": "text", "text": last["content"]}] if isinstance(last["content"], str) else last["content"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    marks = [chr(_FIRST_MARK + nth) for nth in range(len(texts))]
    remaining = iter(marks)
    marked = [{"type": "text", "text": next(remaining)} if part["type"] == "text" else part for part in parts]
    said = str(processor.apply_chat_template(messages, add_generation_prompt=True))
    rendered = str(processor.apply_chat_template([*before, {**last, "content": marked}], add_generation_prompt=True))
    image_token, spans, gained = processor.image_token, [], 0
    for mark, text in zip(marks, texts, strict=True):
        start = rendered.find(mark) + gained
        # Some templates strip what is said, some only the end of it, behind a picture.
        forms = (text, text.rstrip(), text.lstrip(), text.strip())
        shown = next((form for form in forms if said.startswith(form, start)), None)
        if rendered.count(mark) != 1 or shown is None:
            raise ValueError(
                f"the chat template does not say the question {text!r} once, as it is, so which of the tokens it is "
                "cannot be told."
            )
        gained += len(shown) - len(mark)
        # One placeholder an image in what is rendered, one a visual token in what is tokenized.
        images = said.count(image_token, 0, start) * (processor.num_image_tokens - 1) * len(image_token)
        spans.append((start + images, start + images + len(shown)))
    return spans
