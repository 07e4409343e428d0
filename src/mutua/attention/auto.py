"""The default backend: for every forward, the fastest of the others that is exact for it.

`choose` holds the rules, measured by `benchmarks/attention.py`; `mutua doctor` prints them for the machine it runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers.masking_utils import causal_mask_function

from mutua.attention import flex, sdpa, split
from mutua.attention.policy import Policy
from mutua.attention.request import expect_request

NAME = "mutua_auto"

LONG = 512
"""Tokens from which the calls of `split` cost less than a dense mask: at 512 they are even."""


class Choice(NamedTuple):
    """A backend, and the reason in a few words."""

    backend: ModuleType
    why: str


def choose(
    policy: Policy,
    tokens: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    *,
    is_only_causal: bool = True,
    dropout: float = 0.0,
    softcap: float | None = None,
) -> Choice:
    """The backend for a forward.

    Args:
        policy: of the model.
        tokens: of a row of this forward.
        device: where it runs.
        dtype: in which attention computes.
        is_only_causal: the model itself asks for causal attention and nothing else (no sliding window).
        dropout: of the attention weights, as the model's config has it.
        softcap: of the attention scores, as the model's config has it.
    """
    device_type = torch.device(device).type
    is_cuda = device_type == "cuda"
    if torch.compiler.is_compiling():
        return Choice(sdpa, "compiling: traces as one graph")
    if softcap is not None:
        return Choice(flex, "caps scores") if is_cuda else Choice(sdpa, "refuses the softcap, with a remedy")
    if tokens < LONG:
        return Choice(sdpa, "short rows: a mask is cheaper than further calls")
    if dropout > 0:
        return Choice(sdpa, "attention dropout")
    if not is_only_causal:
        why = "a sliding window"
    elif not policy.is_rectangular:
        why = "no union of rectangles"
    elif not (device_type == "cpu" or (is_cuda and dtype in (torch.bfloat16, torch.float16))):
        why = f"no flash kernel for {dtype} on {device_type}"
    else:
        return Choice(split, "as fast as causal flash attention, no N x N mask")
    return Choice(flex, f"{why}; skips empty blocks") if is_cuda else Choice(sdpa, why)


def build_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: object = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: Any = None,
    **kwargs: Any,
) -> Any:
    """What the chosen backend builds. Arguments are those of the dense backend."""
    request = expect_request(attention_mask, NAME)
    device_type = torch.device(device).type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    chosen = choose(
        request.policy,
        q_length,
        device,
        dtype,
        is_only_causal=mask_function is causal_mask_function,
        dropout=getattr(config, "attention_dropout", 0.0) or 0.0,
        softcap=getattr(config, "attn_logit_softcapping", None),
    )
    return chosen.backend.build_mask(
        batch_size,
        q_length,
        kv_length,
        q_offset,
        kv_offset,
        mask_function,
        request,
        device=device,
        dtype=dtype,
        config=config,
        **kwargs,
    )


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention by the backend whose mask this is."""
    if isinstance(attention_mask, split.Plan):
        return split.attend(module, query, key, value, attention_mask, **kwargs)
    if isinstance(attention_mask, BlockMask):
        return flex.attend(module, query, key, value, attention_mask, **kwargs)
    return sdpa.attend(module, query, key, value, attention_mask, **kwargs)
