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

from mutua.attention.inputs import refuse_unknown
from mutua.attention.policy import Policy, rings
from mutua.attention.request import expect_request
from mutua.roles import TokenRoles

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
    """Transformers' own mask (causal or windowed, padding) with what the policy adds; None if plain causal will do.

    `q_offset` is the number of cached tokens; columns are the keys `kv_offset ... kv_offset + kv_length`.
    """
    request = expect_request(attention_mask, NAME)
    looks_ahead, packed = request.looks_ahead, request.is_packed
    base_B1QK = sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=request.padding_BK,
        allow_is_causal_skip=allow_is_causal_skip and not looks_ahead and not packed,
        device=device,
        **kwargs,
    )
    if base_B1QK is None or not (looks_ahead or packed):
        return base_B1QK

    # Roles are known for the tokens of this forward: a key's index among them, and whether it is one of them at all.
    local_K = torch.arange(kv_length, device=device) + kv_offset - q_offset
    is_here_K = (local_K >= 0) & (local_K < q_length)
    local_K = local_K.clamp(0, q_length - 1)
    document_BQ = request.roles.document_BN
    same_document_BQK = document_BQ[:, :, None] == document_BQ[:, local_K][:, None, :]
    mask_BQK = base_B1QK[:, 0]
    if looks_ahead:
        mask_BQK = _within_items(mask_BQK, request.policy, request.roles, local_K, is_here_K)
        mask_BQK = mask_BQK | (_look_ahead(request.policy, request.roles, local_K) & is_here_K)
    mask_BQK = mask_BQK & (same_document_BQK | ~is_here_K)
    if request.padding_BK is not None:  # what was added may be padding by the attention mask alone
        padding_BK = request.padding_BK[:, kv_offset : kv_offset + kv_length].to(device)
        mask_BQK[:, :, : padding_BK.shape[1]] &= padding_BK[:, None]
    return mask_BQK[:, None]


def _within_items(mask_BQK: Tensor, policy: Policy, roles: TokenRoles, local_K: Tensor, is_here_K: Tensor) -> Tensor:
    """The policy's own order of the tokens of one image, in place of the causal one."""
    if policy.within_item == "causal":
        return mask_BQK
    item_BQ, item_BK = roles.item_BN, roles.item_BN[:, local_K]
    same_item_BQK = (item_BQ[:, :, None] == item_BK[:, None, :]) & (item_BQ >= 0)[:, :, None] & is_here_K
    if policy.within_item == "both-ways":
        return mask_BQK | same_item_BQK
    ring_BQ = rings(roles)[0]
    return torch.where(same_item_BQK, ring_BQ[:, local_K][:, None, :] <= ring_BQ[:, :, None], mask_BQK)


def _look_ahead(policy: Policy, roles: TokenRoles, local_K: Tensor) -> Tensor:
    """Where the policy lets a query see a key of its block, whatever their order: bool (B, Q, K)."""
    block_BQ, modality_BQ = roles.block_BN, roles.modality_BN
    block_BK, modality_BK = block_BQ[:, local_K], modality_BQ[:, local_K]
    same_block_BQK = (block_BQ[:, :, None] == block_BK[:, None, :]) & (block_BQ >= 0)[:, :, None]
    return same_block_BQK & policy.table(block_BQ.device)[modality_BQ[:, :, None], modality_BK[:, None, :]]


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' own SDPA, (B, N, H, D); ValueError for what it would drop without a word (softcap, sinks)."""
    refuse_unknown(NAME, **kwargs)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
