"""The attention weights of a model's own forward pass, and how much of them goes from a picture to the question.

Shape suffixes: B batch, L layers, H heads, N tokens, I image tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mutua.attention.abilities import ABILITIES
from mutua.models import MutuaConfig
from mutua.respond import to_model
from mutua.roles import NONE, Modality, TokenRoles


@dataclass(frozen=True)
class AttentionWeights:
    """What the language model's tokens attend to in one forward pass.

    Attributes:
        weights_BLHNN: float32 on the CPU, query (second to last dimension) by key; a row sums to 1, that of padding to
            0. Exactly 0 where the policy's mask lets nothing be seen.
        roles: of the tokens.
    """

    weights_BLHNN: Tensor
    roles: TokenRoles


def expect_own(config: Any) -> None:
    """Raises ValueError for the config of a model that is not one of Mutua's own."""
    if not isinstance(config, MutuaConfig):
        raise ValueError(
            f"a model of type {config.model_type!r} cuts and shrinks pictures its own way, so where in a picture its "
            "tokens lie is not known here: this is for models of Mutua's own. Its attention weights are to be had: "
            "mutua.unlock(model, processor, backend='reference'), then model(**inputs, output_attentions=True)."
        )


@torch.no_grad()
def attention_weights(model: Any, inputs: Mapping[str, Tensor]) -> AttentionWeights:
    """Attention probabilities of every layer and head, by the backend that computes them (in float64, slowly).

    Args:
        model: as from `mutua.load`. Its backend and mode (training or not) are afterwards what they were.
        inputs: a batch as the processor or `encode_prompts` returns it, `token_type_ids` among them.

    Raises:
        ValueError: a model of others, a batch without roles, or a layer that gives no weights, computes
            nothing finite, or asks for what that backend cannot apply.
    """
    expect_own(model.config)
    if "token_type_ids" not in inputs:
        raise ValueError("the batch has no token_type_ids: encode the conversations with the model's MutuaProcessor.")
    roles = TokenRoles.from_codes(inputs["token_type_ids"].cpu())
    with computing_weights(model):
        out = model(**to_model(model, inputs), output_attentions=True, use_cache=False, logits_to_keep=1)
    layers = model.config.text_config.num_hidden_layers
    given = [weights for weights in out.attentions or () if weights is not None]
    if len(given) != layers:
        raise ValueError(
            f"the language model ({model.config.text_config.model_type}) gives attention weights for {len(given)} of "
            f"its {layers} layers: take one whose layers all attend."
        )
    weights_BLHNN = torch.stack([weights_BHNN.float().cpu() for weights_BHNN in given], 1)
    sums_BLHN = weights_BLHNN.sum(-1)
    if bool((sums_BLHN.amin((1, 2)) < 0.9)[roles.is_token_BN].any()):  # 1 but for rounding
        raise ValueError("the attention weights are no numbers: the model computes values that are not finite.")
    return AttentionWeights(weights_BLHNN, roles)


@contextmanager
def computing_weights(model: Any) -> Iterator[None]:
    """The model out of training and under the backend that computes weights, until the block ends, however it does.

    That backend also computes what is not seen as exactly nothing, whatever the shape of a batch.
    """
    backend = next(name for name, can in ABILITIES.items() if can.weights)
    own, was_training = model.config.text_config._attn_implementation, model.training
    model.eval()
    try:
        model.set_attn_implementation(backend)
        yield
    finally:
        model.set_attn_implementation(own)
        model.train(was_training)


def image_to_question(attention: AttentionWeights, is_question_BN: Tensor) -> Tensor:
    """The share of an image token's attention that goes to the question, (B, L, H), mean over the image's tokens.

    Counted are the image tokens in the question's own block: those before it saw nothing of it under any policy.

    Raises:
        ValueError: a row with no image in the block of its question.
    """
    roles = attention.roles
    block_B1 = torch.where(is_question_BN, roles.block_BN, NONE).amax(1, keepdim=True)
    is_image_BN = (roles.modality_BN == Modality.IMAGE) & (roles.block_BN == block_B1)
    images_B = is_image_BN.sum(1)
    if not bool(images_B.all()):
        row = int((images_B == 0).nonzero()[0, 0])
        raise ValueError(f"conversation {row + 1} of {len(images_B)} has no picture beside its question.")
    share_BLHN = (attention.weights_BLHNN * is_question_BN[:, None, None, None]).sum(-1)
    return (share_BLHN * is_image_BN[:, None, None]).sum(-1) / images_B[:, None, None]
