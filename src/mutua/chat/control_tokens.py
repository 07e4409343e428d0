"""The tokens that say who is speaking, which no text may hold."""

from __future__ import annotations

from typing import Any


def control_tokens_of(tokenizer: Any) -> dict[str, int]:
    """The tokenizer's special tokens, and their ids."""
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = tokenizer.all_special_tokens
    return added | dict(zip(named, tokenizer.convert_tokens_to_ids(named), strict=True))
