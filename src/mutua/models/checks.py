"""The roles of a forward's tokens, and what is refused before anything is computed, or learned.

Whatever has to look at the data looks once, from the host. A compiled forward does so by operators of ours, which do
not break its graph; an exported one has no Python to look with.
Shape suffixes: B batch, N tokens of this forward, K all tokens (cached ones included), T text width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mutua.attention import BACKENDS, Policy, get_policy
from mutua.attention.abilities import ABILITIES, backends_with
from mutua.roles import Modality, TokenRoles


def expect_backend(text_config: Any, output_attentions: bool | None, change: str) -> None:
    """Raises ValueError where the language model's backend is none of ours, which may be causal without a word, or
    where attention weights are asked for that it does not have: they would be missing.

    Args:
        change: how a backend is chosen, with {} in its place.
    """
    backend = text_config._attn_implementation
    if backend not in BACKENDS:
        raise ValueError(
            f"the attention implementation of the language model was changed to {backend!r}, which cannot apply a "
            f"look-ahead mask: {change.format('...')} takes {', '.join(BACKENDS)}."
        )
    if output_attentions is None:
        output_attentions = text_config.output_attentions
    if output_attentions and not getattr(ABILITIES.get(backend), "weights", False):
        raise ValueError(
            f"output_attentions=True: attn_implementation {backend!r} computes no attention weights: "
            f"{change.format(backends_with('weights'))}."
        )


def expect_shapes(
    batch: int,
    tokens: int,
    past: int | Tensor,
    attention_mask: Tensor | None,
    codes: Tensor | None,
    name: str = "token_type_ids",
) -> None:
    """Raises ValueError unless the codes (in the argument of that name) are of these tokens and the attention mask is
    of these and all cached ones."""
    if codes is not None and codes.shape != (batch, tokens):
        raise ValueError(
            f"{name} has shape {tuple(codes.shape)}, but the forward holds {(batch, tokens)} tokens: "
            "pass the codes of exactly these tokens."
        )
    if attention_mask is None:
        return
    if attention_mask.ndim != 2:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: pass a (batch, tokens) mask of padding; "
            f"which token sees which follows from {name} and the attention policy."
        )
    # A static cache counts in a tensor; a look at it would cost every decoded token a wait for the device.
    expected = attention_mask.shape[1] if isinstance(past, Tensor) else past + tokens
    if attention_mask.shape != (batch, expected):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, but there are {batch} rows of {past} cached and "
            f"{tokens} new tokens: pass one of shape {(batch, expected)}, with 0 on padding."
        )


def roles_of_forward(
    inputs_embeds_BNT: Tensor,
    token_type_ids: Tensor | None,
    attention_mask_BK: Tensor | None,
    packed_positions_BN: Tensor | None = None,
) -> TokenRoles:
    """The roles of this forward's tokens. Without codes only text is possible, all causal: one document a row, or
    several where `packed_positions_BN` begin anew, as collators of packed rows number them for Transformers."""
    batch, tokens = inputs_embeds_BNT.shape[:2]
    if token_type_ids is None:
        zeros_BN = torch.zeros(batch, tokens, dtype=torch.long, device=inputs_embeds_BNT.device)
        document_BN = zeros_BN
        if packed_positions_BN is not None:
            document_BN = zeros_BN.clone()
            document_BN[:, 1:] = (packed_positions_BN.diff(dim=-1) != 1).cumsum(-1)
        return TokenRoles(document_BN=document_BN, block_BN=zeros_BN - 1, modality_BN=zeros_BN, item_BN=zeros_BN - 1)
    return TokenRoles.from_codes(token_type_ids, None if attention_mask_BK is None else attention_mask_BK[:, -tokens:])


def expect_roles(
    roles: TokenRoles,
    is_image_BN: Tensor | None,
    images: int | None,
    tokens_per_image: int,
    has_codes: bool,
    has_cache: bool,
) -> TokenRoles:
    """The roles, unless images, placeholders and roles contradict each other, or packed rows meet a cache.

    Args:
        is_image_BN: where `input_ids` hold placeholders; None with `inputs_embeds`.
        images: how many came along; None where neither pixels nor features did.

    Raises:
        ValueError: saying what does not fit.
    """
    if torch.compiler.is_exporting():
        return roles
    known = (images, tokens_per_image, has_codes, has_cache)
    if torch.compiler.is_compiling():
        zero = _expect_roles_compiled(roles.document_BN, roles.modality_BN, is_image_BN, *known)
        return replace(roles, document_BN=roles.document_BN + zero)
    _expect_roles(roles.document_BN, roles.modality_BN, is_image_BN, *known)
    return roles


def _expect_roles(
    document_BN: Tensor,
    modality_BN: Tensor,
    is_image_BN: Tensor | None,
    images: int | None,
    tokens_per_image: int,
    has_codes: bool,
    has_cache: bool,
) -> None:
    by_role_BN = modality_BN == int(Modality.IMAGE)
    by_id_BN = by_role_BN if is_image_BN is None else is_image_BN
    facts = torch.stack([by_role_BN.sum(), by_id_BN.sum(), (by_role_BN != by_id_BN).sum(), document_BN.max()])
    places, placeholders, disagreeing, last_document = facts.tolist()
    if not has_codes and (images is not None or placeholders):
        raise ValueError(
            "images came without token_type_ids (the token roles), so the attention policy cannot be applied. "
            "Prepare the inputs with MutuaProcessor.apply_chat_template and pass on all that it returns (PEFT's prompt "
            "and prefix tuning drop them: use LoRA)."
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
    if has_cache:
        expect_unpacked(last_document)


def expect_unpacked(last_document: int) -> None:
    """Raises ValueError for rows that go on in a cache, and the last document of which is not the first."""
    if last_document > 0:
        raise ValueError("packed rows (several documents in a row) cannot be decoded with a cache: one row each.")


def refuse_gradients_on_prompts(hidden_BNT: Tensor, roles: TokenRoles, policy: Policy, is_training: bool) -> Tensor:
    """The hidden states, whose backward pass raises ValueError where it would learn to predict prompt tokens, or
    learns nothing from a row: what labels the base model's callers have, it does not see, but a token that is predicted
    sends a gradient to the state before it.

    So it holds for every loss that is computed outside the model (TRL's trainers, Liger's kernels), and whatever wraps
    the model; and in evaluation mode as well, in which a model is loaded, and in which Lightning leaves it. There the
    last token of a text may have a gradient, too, for what it is followed by was not in sight: so people look at what
    made a model say something.
    """
    if not hidden_BNT.requires_grad or policy.is_causal or torch.compiler.is_exporting():
        return hidden_BNT
    document_BN = torch.where(roles.is_token_BN, roles.document_BN, -1)
    may_learn_BN = torch.zeros_like(roles.is_response_BN)
    same_document_BN = document_BN[:, 1:] == document_BN[:, :-1]
    may_learn_BN[:, :-1] = roles.is_response_BN[:, 1:] & same_document_BN
    if not is_training:
        may_learn_BN[:, :-1] |= ~same_document_BN
        may_learn_BN[:, -1] = True
    return _LooksAtGradients.apply(hidden_BNT, may_learn_BN, policy.name, is_training)


class _LooksAtGradients(torch.autograd.Function):
    """Hidden states as they are; looks at what comes back."""

    @staticmethod
    def forward(ctx: Any, hidden_BNT: Tensor, may_learn_BN: Tensor, policy: str, is_training: bool) -> Tensor:
        ctx.save_for_backward(may_learn_BN)
        ctx.policy = policy
        # A view made here may not be edited in place, and outside training people do edit states.
        return hidden_BNT.view_as(hidden_BNT) if is_training else hidden_BNT.clone()

    @staticmethod
    def backward(ctx: Any, gradient_BNT: Tensor) -> tuple[Tensor, None, None, None]:
        (may_learn_BN,) = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return gradient_BNT + _expect_gradients_compiled(gradient_BNT, may_learn_BN, ctx.policy), None, None, None
        _expect_gradients(gradient_BNT, may_learn_BN, ctx.policy)
        return gradient_BNT, None, None, None


def _expect_gradients(gradient_BNT: Tensor, may_learn_BN: Tensor, policy: str) -> None:
    # Where a loss is not finite, every gradient may be: that is for the trainer to tell.
    learns_BN = (gradient_BNT.nan_to_num(0.0, 0.0, 0.0) != 0).any(-1) & ~may_learn_BN
    has_nothing_B = ~may_learn_BN.any(-1)
    learns_wrong, is_useless = torch.stack([learns_BN.any(), has_nothing_B.any()]).tolist()
    if learns_wrong:
        row, column = (int(i) for i in learns_BN.nonzero()[0])
        raise ValueError(
            f"the loss trains what follows row {row}, token {column}, which is no response: policy {policy!r} "
            "may have shown it to its own past. Train on responses alone: assistant_only_loss=True for TRL's "
            "SFTTrainer, or data_collator=mutua.data.Collator(processor), or labels of -100 elsewhere. A prompt "
            "and its reply in one raw text are no reply: pass messages. Or train with policy 'causal'."
        )
    if is_useless:
        raise ValueError(
            f"row {int(has_nothing_B.nonzero()[0])} of the batch holds no reply, so nothing is learned from it: was it "
            "cut off? Raise max_length (None cuts nothing), or leave the sample out."
        )


def expect_labels_on_responses(
    labels_BN: Tensor, token_type_ids: Tensor | None, attention_mask_BN: Tensor | None, policy: str
) -> Tensor:
    """The labels, unless one stands on a prompt token, which may be visible to its own past under a look-ahead policy:
    then ValueError."""
    if token_type_ids is None or get_policy(policy).is_causal or torch.compiler.is_exporting():
        return labels_BN
    is_response_BN = TokenRoles.from_codes(token_type_ids, attention_mask_BN).is_response_BN
    if torch.compiler.is_compiling():
        return labels_BN + _expect_labels_compiled(labels_BN, is_response_BN, policy)
    _expect_labels(labels_BN, is_response_BN, policy)
    return labels_BN


def _expect_labels(labels_BN: Tensor, is_response_BN: Tensor, policy: str) -> None:
    is_leak_BN = (labels_BN != -100) & ~is_response_BN
    if bool(is_leak_BN.any()):
        row, column = (int(i) for i in is_leak_BN.nonzero()[0])
        raise ValueError(
            f"label {int(labels_BN[row, column])} at row {row}, token {column} stands on a prompt token, which policy "
            f"{policy!r} may show to its own past: set labels to -100 outside the responses (assistant_only_loss=True "
            "for TRL's SFTTrainer, or data_collator=mutua.data.Collator(processor)), or train with 'causal'."
        )


def _compiled(check: Callable[..., None], arguments: str) -> Any:
    """The check as an operator that gives a zero, to be added to what it has looked at: else it would be left out."""

    def look(first: Tensor, *more: Any) -> Tensor:
        check(first, *more)
        return first.new_zeros(())

    operator = torch.library.custom_op(
        f"mutua::{check.__name__.lstrip('_')}",
        look,
        mutates_args=(),
        schema=f"({arguments}) -> Tensor",
        tags=(torch.Tag.cudagraph_unsafe,),  # the host waits for the answer
    )
    operator.register_fake(lambda first, *more: first.new_zeros(()))
    return operator


_expect_roles_compiled = _compiled(
    _expect_roles,
    "Tensor document, Tensor modality, Tensor? is_image, SymInt? images, SymInt tokens_per_image, bool has_codes, "
    "bool has_cache",
)
_expect_gradients_compiled = _compiled(_expect_gradients, "Tensor gradient, Tensor may_learn, str policy")
_expect_labels_compiled = _compiled(_expect_labels, "Tensor labels, Tensor is_response, str policy")
