"""The tokens that say who is speaking, and the texts that must not hold one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mutua.chat.template import Message, count_images, texts_of


def control_tokens_of(tokenizer: Any) -> dict[str, int]:
    """The tokenizer's special tokens, and their ids."""
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = tokenizer.all_special_tokens
    return added | dict(zip(named, tokenizer.convert_tokens_to_ids(named), strict=True))


def check_messages(messages: Sequence[Message], control_tokens: Iterable[str]) -> None:
    """Raises ValueError where a text holds a control token, or an assistant message an image."""
    for message in messages:
        if message["role"] == "assistant" and count_images([message]):
            raise ValueError("an image in an assistant message: images belong in user messages.")
        for text in texts_of(message):
            for token in control_tokens:
                if token in text:
                    raise ValueError(
                        f"the text {text[:80]!r} holds the control token {token!r}, which could change who is "
                        "speaking: remove it."
                    )
