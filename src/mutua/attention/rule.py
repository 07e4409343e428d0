"""The attention rule, vectorised: the one definition from which the dense and the flex backend are built.

    allowed(q, k) =  document(q) == document(k)
                 AND ( base(q, k)
                       OR ( k > q AND block(q) == block(k) != none AND looks_ahead(modality(q), modality(k)) ) )

It is a mask function as Transformers and FlexAttention have them: of (batch, head, query, key) indices that broadcast.
`oracle.py` says the same cell by cell, and shares no line with this file.

Shape suffixes: B batch, N tokens of this forward, K keys (cached ones first), S tokens and room behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.masking_utils import causal_mask_function

from mutua.attention.policy import Policy, rings
from mutua.attention.request import MaskRequest
from mutua.roles import NONE, Modality, TokenRoles

MaskFunction = Callable[[Any, Any, Any, Any], Tensor]


def mask_function(
    request: MaskRequest,
    q_offset: int | Tensor = 0,
    base: Callable[..., Any] = causal_mask_function,
    padding_BK: Tensor | None = None,
    room: int = 1,
) -> MaskFunction:
    """The rule as a function of (batch, head, query, key), the last two counted from the first cached token.

    Args:
        q_offset: tokens before those of this forward.
        base: the model's own mask (causal, or a window of that): what lies behind a query is up to it.
        padding_BK: bool, false where a token, cached or not, is padding; None: the roles tell.
        room: places behind the tokens of this forward that an index may reach; they hold nothing.
    """
    roles, policy = request.roles, request.policy
    document_BS = pad(roles.document_BN, (0, room), value=NONE)
    block_BS = pad(roles.block_BN, (0, room), value=NONE)
    item_BS = pad(roles.item_BN, (0, room), value=NONE)
    modality_BS = pad(roles.modality_BN, (0, room), value=int(Modality.TEXT))
    # One bit a modality: those that a token of this place looks ahead to.
    sees_BS = policy.sees_bits(document_BS.device)[modality_BS]
    ring_BS = pad(rings(roles)[0], (0, room)) if policy.within_item == "rings" else None
    last = document_BS.shape[1] - 1

    def allowed(b: Any, h: Any, q: Any, k: Any) -> Tensor:
        q_here, k_here = (q - q_offset).clamp(0, last), (k - q_offset).clamp(0, last)
        is_cached = k < q_offset
        document = document_BS[b, q_here]
        in_document = (document != NONE) & (is_cached | (document == document_BS[b, k_here]))
        if padding_BK is not None:
            in_document = in_document & padding_BK[b, k]
        seen, is_later = base(b, h, q, k), k > q
        block = block_BS[b, q_here]
        in_block = (block != NONE) & (block == block_BS[b, k_here])
        ahead = is_later & in_block & (((sees_BS[b, q_here] >> modality_BS[b, k_here]) & 1) == 1)
        if policy.within_item != "causal":
            item = item_BS[b, q_here]
            in_item = (item != NONE) & (item == item_BS[b, k_here]) & ~is_cached
            if ring_BS is None:  # both ways
                ahead = ahead | (is_later & in_item)
            else:
                outward = ring_BS[b, k_here] <= ring_BS[b, q_here]
                seen = torch.where(in_item, outward & (seen | is_later), seen)
        return in_document & (seen | ahead)

    return allowed


def dense_mask(
    allowed: MaskFunction, batch: int, queries: tuple[int | Tensor, int], keys: tuple[int, int], device: Any
) -> Tensor:
    """A mask function over (first, number of) queries and keys: bool (B, 1, Q, K)."""
    b_B111 = torch.arange(batch, device=device)[:, None, None, None]
    q_1Q1 = (torch.arange(queries[1], device=device) + queries[0])[None, None, :, None]
    k_11K = (torch.arange(keys[1], device=device) + keys[0])[None, None, None, :]
    return allowed(b_B111, torch.zeros_like(b_B111), q_1Q1, k_11K).expand(batch, 1, queries[1], keys[1])


def allowed_mask(policy: Policy, roles: TokenRoles) -> Tensor:
    """The rule for whole rows: bool (B, N, N), true where query (dim 1) may see key (dim 2).

    Padding has no document: it neither sees nor is seen.
    """
    batch, tokens = roles.document_BN.shape
    allowed = mask_function(MaskRequest(roles, policy, None))
    return dense_mask(allowed, batch, (0, tokens), (0, tokens), roles.document_BN.device)[:, 0]
