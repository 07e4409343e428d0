"""Where a model looks in a picture as it begins to answer: maps over the patch grid.

Shape suffixes: B batch, L layers, H heads, N tokens, P patches of a picture, S patches a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from mutua.inspection.attention_weights import AttentionWeights, attention_weights, expect_own
from mutua.inspection.question_tokens import Messages, encode_asked
from mutua.models import MutuaProcessor
from mutua.roles import NONE, Modality, TokenRoles


@dataclass(frozen=True)
class Looks:
    """From the token that predicts the first token of the answer, the last one of the prompt, to every patch.

    Attributes:
        by_layer_BLSS: its attention to the patch's token, mean over the heads.
        rollout_BSS: by attention rollout over all layers.
    """

    by_layer_BLSS: Tensor
    rollout_BSS: Tensor


def looks_of(model: Any, processor: MutuaProcessor, conversations: Sequence[Messages]) -> Looks:
    """Where a model looks as it begins to answer conversations with one picture each, in Transformers' chat format.

    Raises:
        ValueError: as `where_it_looks`, `attention_weights` and `encode_asked`.
    """
    expect_patch_grid(model.config)
    return where_it_looks(model, attention_weights(model, encode_asked(conversations, processor).inputs))


def where_it_looks(model: Any, attention: AttentionWeights) -> Looks:
    """The maps of prompts with one picture each.

    Raises:
        ValueError: the model's connector keeps no patch grid, or a row holds no picture, or several.
    """
    expect_patch_grid(model.config)
    places_BP, asks_B = _image_places(attention.roles), _last_of_prompt(attention.roles)
    weights_BLNN = attention.weights_BLHNN.mean(2)
    rows_B = torch.arange(len(asks_B))
    from_answer_BLN = weights_BLNN[rows_B, :, asks_B]
    by_layer_BLP = from_answer_BLN.gather(2, places_BP[:, None].expand(-1, from_answer_BLN.shape[1], -1))
    rollout_BP = rollout(weights_BLNN, asks_B).gather(1, places_BP)
    side = isqrt(places_BP.shape[1])
    return Looks(by_layer_BLP.unflatten(2, (side, side)), rollout_BP.unflatten(1, (side, side)))


def keeps_patch_grid(config: Any) -> bool:
    """Whether a model's image tokens are patches, so that a place in the picture belongs to each."""
    return config.connector == "mlp"


def expect_patch_grid(config: Any) -> None:
    """Raises ValueError where `keeps_patch_grid` does not hold, and for the config of a model of others."""
    expect_own(config)
    if not keeps_patch_grid(config):
        raise ValueError(
            f"the connector {config.connector!r} mixes all patches into each of its {config.num_image_tokens} image "
            "tokens, so where in the picture this model looks cannot be told: take a model with the connector 'mlp'."
        )


def rollout(weights_BLNN: Tensor, asks_B: Tensor) -> Tensor:
    """Attention rollout (Abnar and Zuidema, arXiv 2005.00928, section 3) from one token a row to all tokens, (B, N).

    Every layer passes on half of what was there before it (the residual) and half of what was attended to.

    Args:
        weights_BLNN: attention, mean over the heads, first layer first.
    """
    reached_BN = torch.nn.functional.one_hot(asks_B, weights_BLNN.shape[-1]).to(weights_BLNN.dtype)
    for weights_BNN in reversed(weights_BLNN.unbind(1)):
        reached_BN = (reached_BN + torch.einsum("bq,bqk->bk", reached_BN, weights_BNN)) / 2
    return reached_BN


def _image_places(roles: TokenRoles) -> Tensor:
    """(B, P) where the tokens of the picture stand."""
    counts = roles.count_items(Modality.IMAGE).tolist()
    for row, count in enumerate(counts):
        if count != 1:
            which = f"conversation {row + 1} of {len(counts)}" if len(counts) > 1 else "the conversation"
            raise ValueError(f"{which} holds {count or 'no'} pictures: where a model looks is shown for exactly one.")
    return (roles.modality_BN == Modality.IMAGE).nonzero()[:, 1].view(len(counts), -1)


def _last_of_prompt(roles: TokenRoles) -> Tensor:
    """(B,) the last token before the last reply, said or not."""
    index_N = torch.arange(roles.block_BN.shape[1])
    return torch.where(roles.block_BN != NONE, index_N, -1).amax(1)
