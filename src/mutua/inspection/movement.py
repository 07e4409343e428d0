"""How far what a model makes of a picture moves with the question.

Shape suffixes: B batch, S states (layers + 1), N tokens, T width, I image tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mutua.inspection.attention_weights import computing_weights
from mutua.inspection.question_tokens import Messages, encode_asked, with_question
from mutua.models import MutuaProcessor
from mutua.respond import to_model
from mutua.roles import Modality, TokenRoles


@dataclass(frozen=True)
class Movement:
    """Distances between the states of the same image token under two questions, mean over a picture's tokens.

    State 0 goes into the first layer, state k comes out of layer k; the last one has passed the final norm.

    Attributes:
        cosine_BS: 1 - the cosine of the angle between the two, 0 to 2.
        relative_BS: the length of their difference over the mean of their lengths (L2), 0 to 2.
    """

    cosine_BS: Tensor
    relative_BS: Tensor


def movement(
    model: Any, processor: MutuaProcessor, conversations: Sequence[Messages], questions: Sequence[str]
) -> Movement:
    """Conversations that end with a question, each compared with itself under another question.

    Exactly 0 where the picture sees nothing of the question: both batches have the same shape, every row in the same
    place, so what is equal is computed alike to the last bit.

    Raises:
        ValueError: as `encode_asked`, or a conversation without a picture.
    """
    if not conversations:
        raise ValueError("there are no conversations to compare.")
    other = [with_question(messages, question) for messages, question in zip(conversations, questions, strict=True)]
    inputs = encode_asked([*conversations, *other], processor, "right").inputs
    before_BIST, after_BIST = (_image_states(model, half) for half in _halves(inputs))
    pairs = list(zip(before_BIST, after_BIST, strict=True))
    cosine_BS = torch.stack([_cosine_distance(before, after).mean(0) for before, after in pairs])
    relative_BS = torch.stack([_relative_distance(before, after).mean(0) for before, after in pairs])
    return Movement(cosine_BS, relative_BS)


def _halves(inputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The first and the second half of a batch, rows and pictures."""
    split = {name: tensor.chunk(2) for name, tensor in inputs.items()}
    return [{name: halves[nth] for name, halves in split.items()} for nth in (0, 1)]


@torch.no_grad()
def _image_states(model: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The states of the image tokens of every row, (I, S, T) each, in float64."""
    with computing_weights(model):
        out = model(**to_model(model, inputs), output_hidden_states=True, use_cache=False, logits_to_keep=1)
    states_BNST = torch.stack(out.hidden_states, 2).double().cpu()
    is_image_BN = TokenRoles.from_codes(inputs["token_type_ids"].cpu()).modality_BN == Modality.IMAGE
    if not bool(is_image_BN.any(1).all()):
        row = int((~is_image_BN.any(1)).nonzero()[0, 0])
        raise ValueError(f"conversation {row + 1} of {len(is_image_BN)} has no picture.")
    return [states_NST[is_image_N] for states_NST, is_image_N in zip(states_BNST, is_image_BN, strict=True)]


def _cosine_distance(first_IST: Tensor, second_IST: Tensor) -> Tensor:
    """(I, S), by the difference of the two directions: 0 for equal ones, which 1 - cosine would miss by a digit."""
    first_IST, second_IST = normalize(first_IST, dim=-1), normalize(second_IST, dim=-1)
    return (first_IST - second_IST).square().sum(-1) / 2


def _relative_distance(first_IST: Tensor, second_IST: Tensor) -> Tensor:
    """(I, S); 0 where both are 0."""
    length_IS = (first_IST.norm(dim=-1) + second_IST.norm(dim=-1)) / 2
    return (first_IST - second_IST).norm(dim=-1) / length_IS.clamp(min=torch.finfo(length_IS.dtype).tiny)
