"""The flex backend: every policy through FlexAttention, which skips the blocks of the mask that are empty.

The mask is a function of two token indices over small arrays of roles; 128 x 128 blocks in which it is false everywhere
are never computed. FlexAttention compiles per shape, so lengths are padded to powers of two: a new length compiles
nothing unless it opens a new bucket. On a CPU there is a forward only.

Shape suffixes: B batch, H heads, N tokens of this forward (queries), K keys, S places of the role arrays (a bucket of
keys, and one of queries behind them), D head dimension.
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

from mutua.attention import sdpa
from mutua.attention.inputs import follow_autocast, refuse_unknown
from mutua.attention.policy import rings
from mutua.attention.request import MaskRequest, expect_request
from mutua.roles import NONE, Modality

NAME = "mutua_flex"

_BLOCK = 128  # the smallest bucket, and the side of a block
_CACHED = -2  # the document of cached keys: visible to whatever document comes after them
# How many different shapes (batches, buckets, heads) one process may meet.
_COMPILATIONS = 64

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


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
    is_plain = (
        allow_is_causal_skip
        and not (request.looks_ahead or request.is_packed)
        and (request.padding_BK is None or bool(request.padding_BK.all()))
        and mask_function is causal_mask_function
    )
    if q_length == 1 or is_plain:
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
    allowed = _mask_function(request, q_offset, kv_offset, q_bucket + k_bucket, mask_function)
    # Compiled, it never holds the N x N mask; on a CPU the compiler takes longer than the mask.
    is_compiled = device.type == "cuda"
    return create_block_mask(
        allowed, request.shape[0], None, q_bucket, k_bucket, device, BLOCK_SIZE=_BLOCK, _compile=is_compiled
    )


def bucket(length: int) -> int:
    """The length that `length` tokens are padded to: the next power of two, at least 128."""
    return max(_BLOCK, 1 << (length - 1).bit_length())


def _mask_function(
    request: MaskRequest, q_offset: int, kv_offset: int, length: int, base: Callable[..., Any]
) -> MaskFunction:
    """The rule as a function of (batch, head, query index, key index), over arrays of `length` keys.

    Everything that changes from call to call is a tensor: numbers in a closure would compile anew.
    """
    roles, policy, (batch, tokens) = request.roles, request.policy, request.shape
    device, past = roles.document_BN.device, q_offset - kv_offset

    def over_keys(values_BN: Tensor, before: int) -> Tensor:
        """Values of this forward's tokens at their place among all keys: (B, S), `NONE` behind them."""
        values_BS = values_BN.new_full((batch, length), NONE)
        values_BS[:, :past] = before
        values_BS[:, past : past + tokens] = values_BN
        return values_BS

    document_BS = over_keys(roles.document_BN, _CACHED)
    if request.padding_BK is not None:
        padding_BK = request.padding_BK[:, kv_offset : kv_offset + length]
        document_BS[:, : padding_BK.shape[1]].masked_fill_(~padding_BK.to(device).bool(), NONE)
    block_BS, item_BS = over_keys(roles.block_BN, NONE), over_keys(roles.item_BN, NONE)
    modality_BS = over_keys(roles.modality_BN, int(Modality.TEXT)).clamp(min=0)
    ring_BS = over_keys(rings(roles)[0], 0) if policy.within_item == "rings" else item_BS
    table = policy.table(device)
    past_, q_offset_, kv_offset_ = (torch.tensor(number, device=device) for number in (past, q_offset, kv_offset))

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = base(b, h, q + q_offset_, k + kv_offset_)
        q = q + past_
        document = document_BS[b, k]
        same_document = (document != NONE) & ((document == document_BS[b, q]) | (document == _CACHED))
        if policy.within_item != "causal":
            same_item = (item_BS[b, q] == item_BS[b, k]) & (item_BS[b, q] != NONE)
            if policy.within_item == "both-ways":
                seen = seen | same_item
            else:
                seen = torch.where(same_item, ring_BS[b, k] <= ring_BS[b, q], seen)
        same_block = (block_BS[b, q] == block_BS[b, k]) & (block_BS[b, q] != NONE)
        ahead = same_block & table[modality_BS[b, q], modality_BS[b, k]]
        return same_document & (seen | ahead)

    return allowed


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
    refuse_unknown(NAME, dropout=dropout, **kwargs)
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
    q_BHND, k_BHKD, v_BHKD = follow_autocast(q_BHND, k_BHKD, v_BHKD)
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
