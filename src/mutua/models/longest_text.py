"""How long a text may get: a language model knows as many positions as it was built for, and answers noise beyond.

Shape suffixes: B batch, N tokens of this forward.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

_REMEDY = (
    "ask about fewer or smaller things at a time, or, for a language model whose positions can be stretched, raise "
    "config.text_config.max_position_embeddings and set its rope scaling"
)


def longest_text(text_config: Any) -> int | None:
    """How many tokens a text may have; None where the language model sets no limit."""
    return getattr(text_config, "max_position_embeddings", None)


def expect_positions(text_config: Any, position_ids_BN: Tensor, past: int | Tensor) -> None:
    """Raises ValueError where a token stands beyond the last position that the language model knows."""
    limit = longest_text(text_config)
    if limit is None or isinstance(past, Tensor) or torch.compiler.is_compiling():
        return
    # No position is above the number of tokens: most forwards need no look at the data. Packed rows may be longer.
    if past + position_ids_BN.shape[-1] > limit and (last := int(position_ids_BN.max())) >= limit:
        raise ValueError(
            f"the text has {last + 1} tokens, images included, but the language model was built for {limit}: {_REMEDY}."
        )


def fit_reply(
    text_config: Any, prompt_tokens: int, kwargs: dict[str, Any], config: GenerationConfig | None
) -> int | None:
    """How many new tokens `generate` may say: fewer than asked for where the positions run out, which is told.

    Args:
        prompt_tokens: of the longest row, without padding.
        kwargs, config: of `generate`.

    Returns:
        None where what was asked for fits.

    Raises:
        ValueError: the prompt leaves no room for a reply.
    """
    limit = longest_text(text_config)
    if limit is None:
        return None
    room = limit - prompt_tokens
    if room < 1:
        raise ValueError(
            f"the prompt has {prompt_tokens} tokens, images included, but the language model was built for texts of "
            f"{limit} with the reply: {_REMEDY}."
        )
    asked, longest = (
        next((given for given in (kwargs.get(name), getattr(config, name, None)) if given is not None), None)
        for name in ("max_new_tokens", "max_length")
    )
    if asked is None and longest is not None:
        asked = longest - prompt_tokens
    if asked is None or asked <= room:
        return None
    warnings.warn(
        f"the reply may have {room} tokens, not {asked}: the prompt has {prompt_tokens}, and the language model was "
        f"built for texts of {limit}.",
        stacklevel=3,
    )
    return room
