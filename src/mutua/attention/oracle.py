"""The oracle: the attention rule as a dense mask, and attention in float64. Written to be read, not to be fast.

    allowed(q, k) =  document(q) == document(k)
                 AND ( k <= q
                       OR ( block(q) == block(k) != none AND looks_ahead(modality(q), modality(k)) ) )

and where a policy orders the tokens of one image otherwise, that order stands in place of `k <= q` inside the image.

Shape suffixes: B batch, H heads, Q queries, K keys, N tokens, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mutua.attention.policy import Policy, rings
from mutua.roles import NONE, TokenRoles


def allowed_mask(policy: Policy, roles: TokenRoles) -> Tensor:
    """The rule for whole rows: bool (B, N, N), true where query (dim 1) may see key (dim 2).

    Padding has no document: it neither sees nor is seen.
    """
    document_BQ1, document_B1K = roles.document_BN[:, :, None], roles.document_BN[:, None, :]
    block_BQ1, block_B1K = roles.block_BN[:, :, None], roles.block_BN[:, None, :]
    modality_BQ1, modality_B1K = roles.modality_BN[:, :, None], roles.modality_BN[:, None, :]
    item_BQ1, item_B1K = roles.item_BN[:, :, None], roles.item_BN[:, None, :]

    index_N = torch.arange(roles.document_BN.shape[1], device=roles.document_BN.device)
    causal_QK = index_N[None, :] <= index_N[:, None]
    same_document_BQK = (document_BQ1 == document_B1K) & (document_BQ1 != NONE)
    same_block_BQK = (block_BQ1 == block_B1K) & (block_BQ1 != NONE)
    same_item_BQK = (item_BQ1 == item_B1K) & (item_BQ1 != NONE)
    looks_ahead_BQK = policy.table(document_BQ1.device)[modality_BQ1, modality_B1K]

    ordered_BQK = causal_QK.expand_as(same_item_BQK)
    if policy.within_item == "both-ways":
        ordered_BQK = ordered_BQK | same_item_BQK
    if policy.within_item == "rings":
        ring_BN = rings(roles)[0]
        ordered_BQK = torch.where(same_item_BQK, ring_BN[:, None, :] <= ring_BN[:, :, None], ordered_BQK)
    return same_document_BQK & (ordered_BQK | (same_block_BQK & looks_ahead_BQK))


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
