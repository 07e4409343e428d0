"""The dense backend: a boolean (B, 1, Q, K) mask for `torch.nn.functional.scaled_dot_product_attention`.

Costs memory quadratic in the number of tokens, runs everywhere. A forward in which nothing looks ahead builds no mask
at all and runs as plain causal attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from mutua.attention import rule
from mutua.attention.abilities import refuse_unable
from mutua.attention.request import expect_request

NAME = "mutua_sdpa"


def build_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: object = None,
    allow_is_causal_skip: bool = True,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor | None:
    """The rule as a mask; None if plain causal attention will do.

    `q_offset` is the number of cached tokens; columns are the keys `kv_offset ... kv_offset + kv_length`.
    """
    request = expect_request(attention_mask, NAME)
    if request.is_base:
        return sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            q_offset=q_offset,
            kv_offset=kv_offset,
            mask_function=mask_function,
            attention_mask=request.padding_BK,
            allow_is_causal_skip=allow_is_causal_skip,
            device=device,
            **kwargs,
        )
    padding_BK = request.padding_up_to(kv_offset + kv_length)
    allowed = rule.mask_function(request, q_offset, mask_function, padding_BK)
    return rule.dense_mask(allowed, batch_size, (q_offset, q_length), (kv_offset, kv_length), device)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' own SDPA, (B, N, H, D); ValueError for what it would drop without a word (softcap, sinks)."""
    refuse_unable(NAME, **kwargs)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
