"""The flex backend: every policy through FlexAttention, which skips the blocks of the mask that are empty.

The mask is a function of two token indices over small arrays of roles; 128 x 128 blocks in which it is false everywhere
are never computed. FlexAttention compiles per shape, so lengths are padded to powers of two: a new length compiles
nothing unless it opens a new bucket. On a CPU there is a forward only.

Shape suffixes: B batch, H heads, N tokens of this forward (queries), K keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad
from transformers.masking_utils import causal_mask_function

from mutua.attention import rule, sdpa
from mutua.attention.abilities import compute_dtype, refuse_unable
from mutua.attention.request import MaskRequest, expect_request

NAME = "mutua_flex"

_BLOCK = 128  # the smallest bucket, and the side of a block
# How many different shapes (batches, buckets, heads) one process may meet.
_COMPILATIONS = 64


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
) -> BlockMask | Tensor | None:
    """The BlockMask of this forward; None if plain causal attention will do; for a decode step the (B, 1, 1, K) mask.

    Arguments are those of the dense backend.
    """
    request = expect_request(attention_mask, NAME)
    may_skip = allow_is_causal_skip and mask_function is causal_mask_function
    if q_length == 1 or (may_skip and request.is_base and not request.is_padded):
        return sdpa.build_mask(
            batch_size,
            q_length,
            kv_length,
            q_offset,
            kv_offset,
            mask_function,
            request,
            allow_is_causal_skip=allow_is_causal_skip,
            device=device,
            **kwargs,
        )
    return _block_mask(request, q_length, kv_length, int(q_offset), kv_offset, mask_function, torch.device(device))


@torch.compiler.disable  # it looks at the data
def _block_mask(
    request: MaskRequest,
    q_length: int,
    kv_length: int,
    q_offset: int,
    kv_offset: int,
    mask_function: Callable[..., Any],
    device: torch.device,
) -> BlockMask:
    q_bucket, k_bucket = bucket(q_length), bucket(kv_length)
    # Everything that changes from call to call is a tensor, and of the bucket's size: a number in the closure, or
    # another shape, would compile anew.
    first_q, first_k = (torch.tensor(number, device=device) for number in (q_offset, kv_offset))
    is_real_BK = request.padding_up_to(kv_offset + kv_length)
    if is_real_BK is None:
        is_real_BK = torch.ones(request.shape[0], kv_offset + kv_length, dtype=torch.bool, device=device)
    is_real_BK = pad(is_real_BK[:, kv_offset : kv_offset + kv_length], (0, k_bucket - kv_length)).to(device)
    if mask_function is not causal_mask_function:  # its arrays may end where the text does
        mask_function = _up_to(mask_function, first_q + (q_length - 1), first_k + (kv_length - 1))
    allowed = rule.mask_function(request, first_q, mask_function, room=q_bucket + 1 - q_length)

    def in_buckets(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return is_real_BK[b, k] & allowed(b, h, q + first_q, k + first_k)

    # Compiled, it never holds the N x N mask; on a CPU the compiler takes longer than the mask.
    is_compiled = device.type == "cuda"
    return create_block_mask(
        in_buckets, request.shape[0], None, q_bucket, k_bucket, device, BLOCK_SIZE=_BLOCK, _compile=is_compiled
    )


def _up_to(base: Callable[..., Any], last_q: Tensor, last_k: Tensor) -> Callable[..., Any]:
    """A mask function that is not asked beyond the last query and key: what lies there, in a bucket, is masked."""

    def bounded(b: Any, h: Any, q: Any, k: Any) -> Any:
        return base(b, h, torch.minimum(q, last_q), torch.minimum(k, last_k))

    return bounded


def bucket(length: int) -> int:
    """The length that `length` tokens are padded to: the next power of two, at least 128."""
    return max(_BLOCK, 1 << (length - 1).bit_length())


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over a BlockMask; with a mask or None in its place, plain SDPA.

    Takes query (B, H, N, D), key and value (B, H / groups, K, D); returns (B, N, H, D). Raises ValueError for dropout,
    biases and sinks, and on a CPU where a gradient would be needed.
    """
    if not isinstance(attention_mask, BlockMask):
        return sdpa.attend(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, softcap=softcap, **kwargs
        )
    refuse_unable(NAME, dropout=dropout, **kwargs)
    if query.device.type == "cpu" and torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        raise ValueError(
            f"attn_implementation {NAME!r} has no backward on a CPU: use 'mutua_split' or {sdpa.NAME!r} to train, or "
            "torch.no_grad() around a forward."
        )
    out_BHND = _flex(query, key, value, attention_mask, scaling, softcap)
    return out_BHND.transpose(1, 2).contiguous(), None


@torch.compiler.disable
def _flex(
    q_BHND: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, mask: BlockMask, scale: float | None, softcap: float | None
) -> Tensor:
    q_bucket, k_bucket = mask.seq_lengths
    tokens, keys = q_BHND.shape[2], k_BHKD.shape[2]
    q_BHND, k_BHKD, v_BHKD = (x.to(compute_dtype(x)) for x in (q_BHND, k_BHKD, v_BHKD))
    out_BHND = _compiled()(
        pad(q_BHND, (0, 0, 0, q_bucket - tokens)),
        pad(k_BHKD, (0, 0, 0, k_bucket - keys)),
        pad(v_BHKD, (0, 0, 0, k_bucket - keys)),
        score_mod=None if softcap is None else _softcap(softcap),
        block_mask=mask,
        scale=scale,
        enable_gqa=True,
    )
    return out_BHND[:, :, :tokens]


@cache
def _compiled() -> Callable[..., Tensor]:
    # A full graph, so that PyTorch says so if the limit is hit: its fallback holds all scores at once.
    return torch.compile(  # type: ignore[call-overload, no-any-return]
        flex_attention, dynamic=False, fullgraph=True, recompile_limit=_COMPILATIONS
    )


@cache  # the same function for the same cap: a new one would compile anew
def _softcap(cap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped
