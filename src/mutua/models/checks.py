"""The roles of a forward's tokens, and what is refused before anything is computed.

Whatever has to look at the data looks once, from the host, and never while a forward is traced.
Shape suffixes: B batch, N tokens of this forward, K all tokens (cached ones included), T text width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mutua.attention import Policy, get_policy
from mutua.roles import Modality, TokenRoles


def expect_shapes(
    batch: int, tokens: int, past: int | Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
) -> None:
    """Raises ValueError unless the codes are of these tokens and the attention mask is of these and all cached ones."""
    if token_type_ids is not None and token_type_ids.shape != (batch, tokens):
        raise ValueError(
            f"token_type_ids has shape {tuple(token_type_ids.shape)}, but the forward holds {(batch, tokens)} tokens: "
            "pass the codes of exactly these tokens."
        )
    if attention_mask is None:
        return
    if attention_mask.ndim != 2:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: pass a (batch, tokens) mask of padding; "
            "which token sees which follows from token_type_ids and the attention policy."
        )
    # A static cache counts in a tensor; a look at it would cost every decoded token a wait for the device.
    expected = attention_mask.shape[1] if isinstance(past, Tensor) else past + tokens
    if attention_mask.shape != (batch, expected):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, but there are {batch} rows of {past} cached and "
            f"{tokens} new tokens: pass one of shape {(batch, expected)}, with 0 on padding."
        )


def roles_of_forward(
    inputs_embeds_BNT: Tensor, token_type_ids: Tensor | None, attention_mask_BK: Tensor | None
) -> TokenRoles:
    """The roles of this forward's tokens. Without codes only text is possible: one document, all causal."""
    batch, tokens = inputs_embeds_BNT.shape[:2]
    if token_type_ids is None:
        zeros_BN = torch.zeros(batch, tokens, dtype=torch.long, device=inputs_embeds_BNT.device)
        return TokenRoles(document_BN=zeros_BN, block_BN=zeros_BN - 1, modality_BN=zeros_BN, item_BN=zeros_BN - 1)
    return TokenRoles.from_codes(token_type_ids, None if attention_mask_BK is None else attention_mask_BK[:, -tokens:])


def expect_roles(
    roles: TokenRoles,
    is_image_BN: Tensor | None,
    images: int | None,
    tokens_per_image: int,
    has_codes: bool,
    has_cache: bool,
) -> None:
    """Raises ValueError where images, placeholders and roles contradict each other, or packed rows meet a cache.

    Args:
        is_image_BN: where `input_ids` hold placeholders; None with `inputs_embeds`.
        images: how many came along; None where neither pixels nor features did.
    """
    by_role_BN = roles.modality_BN == int(Modality.IMAGE)
    by_id_BN = by_role_BN if is_image_BN is None else is_image_BN
    facts = torch.stack([by_role_BN.sum(), by_id_BN.sum(), (by_role_BN != by_id_BN).sum(), roles.document_BN.max()])
    places, placeholders, disagreeing, last_document = facts.tolist()
    if not has_codes and (images is not None or placeholders):
        raise ValueError(
            "images came without token_type_ids (the token roles), so the attention policy cannot be applied. "
            "Prepare the inputs with MutuaProcessor.apply_chat_template and pass on all that it returns."
        )
    if images is None and placeholders and is_image_BN is not None:
        raise ValueError(
            "input_ids hold image tokens, but neither pixel_values nor vision_features came with them: pass on all "
            "that MutuaProcessor.apply_chat_template returns."
        )
    if disagreeing:
        raise ValueError(
            "token_type_ids and input_ids disagree on which tokens are images: both must come from one "
            "MutuaProcessor call (an all-zero token_type_ids from a tokenizer holds no roles)."
        )
    if images is not None and places != images * tokens_per_image:
        raise ValueError(
            f"the prompt holds {places} image tokens, but {images} images give {images * tokens_per_image} "
            f"({tokens_per_image} each): pass one image per placeholder."
        )
    if has_cache and last_document > 0:
        raise ValueError("packed rows (several documents in a row) cannot be decoded with a cache: one row each.")


def refuse_gradients_on_prompts(hidden_BNT: Tensor, roles: TokenRoles, policy: Policy) -> None:
    """Refuses, in the backward pass, to learn to predict prompt tokens: what labels the base model's callers have, it
    does not see, but a token that is predicted sends a gradient to the state before it.

    So it holds for every loss that is computed outside the model (TRL's trainers, Liger's kernels), and whatever wraps
    the model. The backward pass raises ValueError.
    """
    if not hidden_BNT.requires_grad or policy.is_causal or torch.compiler.is_compiling():
        return
    document_BN = torch.where(roles.is_token_BN, roles.document_BN, -1)
    may_learn_BN = torch.zeros_like(roles.is_response_BN)
    same_document_BN = document_BN[:, 1:] == document_BN[:, :-1]
    may_learn_BN[:, :-1] = roles.is_response_BN[:, 1:] & same_document_BN

    def refuse(gradient_BNT: Tensor) -> None:
        # Where a loss is not finite, every gradient may be: that is for the trainer to tell.
        learns_BN = (gradient_BNT.nan_to_num(0.0, 0.0, 0.0) != 0).any(-1) & ~may_learn_BN
        if bool(learns_BN.any()):
            row, column = (int(i) for i in learns_BN.nonzero()[0])
            raise ValueError(
                f"the loss trains what follows row {row}, token {column}, which is no response: policy {policy.name!r} "
                "may have shown it to its own past. Train on responses alone: assistant_only_loss=True for TRL's "
                "SFTTrainer, or data_collator=mutua.data.Collator(processor), or labels of -100 elsewhere. A prompt "
                "and its reply in one raw text are no reply: pass messages. Or train with policy 'causal'."
            )

    hidden_BNT.register_hook(refuse)


def expect_labels_on_responses(
    labels_BN: Tensor, token_type_ids: Tensor | None, attention_mask_BN: Tensor | None, policy: str
) -> None:
    """A prompt token may be visible to its own past under a look-ahead policy, so it must not be predicted."""
    if token_type_ids is None or get_policy(policy).is_causal or torch.compiler.is_compiling():
        return
    roles = TokenRoles.from_codes(token_type_ids, attention_mask_BN)
    is_leak_BN = (labels_BN != -100) & ~roles.is_response_BN
    if bool(is_leak_BN.any()):
        row, column = (int(i) for i in is_leak_BN.nonzero()[0])
        raise ValueError(
            f"label {int(labels_BN[row, column])} at row {row}, token {column} stands on a prompt token, which policy "
            f"{policy!r} may show to its own past: set labels to -100 outside the responses (assistant_only_loss=True "
            "for TRL's SFTTrainer, or data_collator=mutua.data.Collator(processor)), or train with 'causal'."
        )
