"""Samples to tensors: whole conversations with labels for training, prompts alone for evaluation.

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mutua.data.sample import Sample
from mutua.models.processing import MutuaProcessor
from mutua.roles import TokenRoles

IGNORE = -100
"""The label of a token that is not to be predicted, by Transformers' convention."""


def encode(
    samples: Sequence[Sample], processor: MutuaProcessor, *, padding_side: Literal["left", "right"] = "right"
) -> dict[str, Tensor]:
    """The processor's tensors for whole conversations, and `labels` (B, N): the responses, `IGNORE` elsewhere."""
    batch = processor.apply_chat_template(
        [sample.chat() for sample in samples],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding_side": padding_side},
    )
    is_response_BN = TokenRoles.from_codes(batch["token_type_ids"]).is_response_BN
    return {**batch, "labels": torch.where(is_response_BN, batch["input_ids"], IGNORE)}


def encode_prompts(samples: Sequence[Sample], processor: MutuaProcessor) -> dict[str, Tensor]:
    """The processor's tensors for prompts that wait for a reply, padded on the left as `generate` needs them."""
    batch = processor.apply_chat_template(
        [sample.prompt() for sample in samples],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding_side": "left"},
    )
    return dict(batch)
