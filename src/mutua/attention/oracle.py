"""The oracle: the attention rule cell by cell, and attention in float64. Written to be read, not to be fast.

    allowed(q, k) =  document(q) == document(k)
                 AND ( base(q, k)
                       OR ( k > q AND block(q) == block(k) != none AND looks_ahead(modality(q), modality(k)) ) )

`base` is the model's own mask: k <= q, or a window of that. Where a policy orders the tokens of one image otherwise,
that order stands in place of k <= q inside the image. Nothing here is shared with the backends that it judges.

Shape suffixes: B batch, H heads, Q queries, K keys (cached ones first), N tokens of this forward, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from mutua.attention.policy import Policy
from mutua.roles import NONE, TokenRoles


def allowed_mask(
    policy: Policy,
    roles: TokenRoles,
    *,
    past: int = 0,
    keys: int | None = None,
    first_key: int = 0,
    padding_BK: Tensor | None = None,
    base: Callable[..., Any] | None = None,
) -> Tensor:
    """The rule: bool (B, N, K), true where query (dim 1) may see key (dim 2).

    Padding has no document: it neither sees nor is seen. Takes seconds for a thousand tokens.

    Args:
        roles: of the tokens of this forward.
        past: tokens before them, whose keys are cached: visible as far as `base` goes, never looked ahead to.
        keys: columns of the mask; None: those of the cached tokens and of this forward.
        first_key: the token that column 0 stands for (a cache with a window forgets the first ones).
        padding_BK: bool, false where a token, cached or not, is padding, from token 0 on.
        base: the model's own mask, as Transformers' mask functions (batch, head, query, key); None is causal.
    """
    batch, tokens = roles.document_BN.shape
    keys = past + tokens - first_key if keys is None else keys
    # Lists until the end: one cell of a tensor takes ten times as long to write.
    allowed = [[[False] * keys for _ in range(tokens)] for _ in range(batch)]
    for row in range(batch):
        is_behind = _behind(base, row, past, tokens, first_key, keys)
        document, block, modality, item = (
            column[row].tolist() for column in (roles.document_BN, roles.block_BN, roles.modality_BN, roles.item_BN)
        )
        is_real = [True] * (past + tokens)
        for token, real in enumerate([] if padding_BK is None else padding_BK[row].tolist()[: past + tokens]):
            is_real[token] = real
        for q in range(tokens):
            if document[q] == NONE or not is_real[past + q]:
                continue
            for column in range(min(keys, past + tokens - first_key)):
                k = first_key + column - past  # among the tokens of this forward; negative for cached ones
                behind = is_behind[q][column]
                if not is_real[past + k]:
                    continue
                if k < 0:
                    allowed[row][q][column] = behind
                    continue
                if document[k] != document[q]:
                    continue
                ahead = k > q and block[q] == block[k] != NONE and (modality[q], modality[k]) in policy.looks_ahead
                if item[q] == item[k] != NONE and policy.within_item == "both-ways":
                    ahead = ahead or k > q
                if item[q] == item[k] != NONE and policy.within_item == "rings":
                    inside = _ring(k, item, document) <= _ring(q, item, document)
                    behind = inside and (behind or k > q)
                allowed[row][q][column] = behind or ahead
    return torch.tensor(allowed, dtype=torch.bool, device=roles.document_BN.device).view(batch, tokens, keys)


def _behind(
    base: Callable[..., Any] | None, row: int, past: int, tokens: int, first_key: int, keys: int
) -> list[list[bool]]:
    """Query by key: what the model's own mask shows in a row of the batch."""
    if base is None:
        return [[first_key + column <= past + q for column in range(keys)] for q in range(tokens)]
    queries_Q1, keys_1K = past + torch.arange(tokens)[:, None], first_key + torch.arange(keys)[None]
    head = torch.zeros((), dtype=torch.long)
    return base(torch.tensor(row), head, queries_Q1, keys_1K).expand(tokens, keys).tolist()


def _ring(place: int, item: list[int], document: list[int]) -> int:
    """How far a token is from the rim of its image's square patch grid."""
    patches = [n for n in range(len(item)) if item[n] == item[place] and document[n] == document[place]]
    side = isqrt(len(patches))
    if side * side != len(patches):
        raise ValueError(f"an image of {len(patches)} tokens is no square grid, so it has no rings.")
    row, column = divmod(patches.index(place), side)
    return min(row, column, side - 1 - row, side - 1 - column)


def attend(
    q_BHQD: Tensor,
    k_BHKD: Tensor,
    v_BHKD: Tensor,
    allowed_BQK: Tensor,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T * scale) v in float64; a query that may see nothing yields zeros.

    `softcap` bounds the scores: softcap * tanh(score / softcap), as in Gemma 2 (arXiv 2408.00118, section 2).
    Returns the output (B, H, Q, D) and the attention weights (B, H, Q, K), both in the dtype of `q_BHQD`.
    """
    scale = q_BHQD.shape[-1] ** -0.5 if scale is None else scale
    scores_BHQK = q_BHQD.double() @ k_BHKD.double().transpose(-1, -2) * scale
    if softcap is not None:
        scores_BHQK = softcap * torch.tanh(scores_BHQK / softcap)
    scores_BHQK = scores_BHQK.masked_fill(~allowed_BQK[:, None], -torch.inf)
    weights_BHQK = scores_BHQK.softmax(-1).nan_to_num(0.0)  # a row of -inf has no softmax
    out_BHQD = weights_BHQK @ v_BHKD.double()
    return out_BHQD.to(q_BHQD.dtype), weights_BHQK.to(q_BHQD.dtype)
