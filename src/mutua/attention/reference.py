"""The reference backend: mask and attention by the oracle, cell by cell and in float64. Slow, and right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function
from transformers.models.llama.modeling_llama import repeat_kv

from mutua.attention import oracle
from mutua.attention.abilities import refuse_unable
from mutua.attention.request import expect_request

NAME = "mutua_reference"


def build_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: object = None,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor:
    """The oracle's mask, bool (B, 1, Q, K). Arguments are those of the dense backend."""
    request = expect_request(attention_mask, NAME)
    base = None if mask_function is causal_mask_function else mask_function
    allowed_BQK = oracle.allowed_mask(
        request.policy,
        request.roles,
        past=int(q_offset),
        keys=kv_length,
        first_key=kv_offset,
        padding_BK=request.padding_BK,
        base=base,
    )
    return allowed_BQK[:, None].to(device)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention in float64: output (B, N, H, D) and attention weights (B, H, N, K)."""
    refuse_unable(NAME, **kwargs)
    groups = query.shape[1] // key.shape[1]
    out_BHQD, weights_BHQK = oracle.attend(
        query, repeat_kv(key, groups), repeat_kv(value, groups), attention_mask[:, 0], scaling, softcap
    )
    return out_BHQD.transpose(1, 2).contiguous(), weights_BHQK
