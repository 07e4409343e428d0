"""Samples to tensors: whole conversations with labels for training, prompts alone for evaluation.

Shape suffixes: B batch, N tokens, T supervised tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import ProcessorMixin

from mutua.chat import roles_of
from mutua.data.rows import sample_from_row
from mutua.data.sample import Sample, SampleError
from mutua.models.processing import MutuaProcessor
from mutua.respond import chats_for, encode_conversations
from mutua.roles import TokenRoles
from mutua.unlocking import ROLES

IGNORE = -100
"""The label of a token that is not to be predicted, by Transformers' convention."""


def encode(samples: Sequence[Sample], processor: Any) -> dict[str, Tensor]:
    """The processor's tensors for whole conversations, and `labels` (B, N): the responses, `IGNORE` elsewhere.

    The processor of an unlocked model gets the roles as `token_roles`, for the model's forward.
    """
    chats = [sample.chat() for sample in samples]
    batch = processor.apply_chat_template(
        chats_for(processor, chats),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding_side": "right", "padding": True},
    )
    if not isinstance(processor, MutuaProcessor):
        batch[ROLES] = roles_of(processor, chats, batch).to_codes()
    is_response_BN = TokenRoles.from_codes(role_codes(batch)).is_response_BN
    return {**batch, "labels": torch.where(is_response_BN, batch["input_ids"], IGNORE)}


def role_codes(batch: Mapping[str, Any]) -> Tensor:
    """The role codes of a batch, (B, N), whoever's processor made it."""
    return batch[ROLES] if ROLES in batch else batch["token_type_ids"]


class Collator:
    """Rows to batches, for Transformers' `Trainer` and TRL's `SFTTrainer` (`data_collator=Collator(processor)`).

    The batch is the one that `mutua train` makes of the same samples: token roles, pictures, and labels on the
    responses alone.

    Args:
        processor: the model's: a `MutuaProcessor`, or, for an unlocked model, any of Transformers with a chat template.
        max_tokens: longer samples are refused, as a batch that is cut would lose its replies; None takes all.

    Raises:
        ValueError: it is no processor, but a tokenizer for instance.
    """

    def __init__(self, processor: Any, max_tokens: int | None = None) -> None:
        if not isinstance(processor, ProcessorMixin):
            raise ValueError(
                f"Collator takes the model's processor (mutua.load gives it, or AutoProcessor), not "
                f"{type(processor).__name__}: only it tells replies from prompts."
            )
        self.processor, self.max_tokens = processor, max_tokens

    def __call__(self, rows: Sequence[Sample | Mapping[str, Any]]) -> dict[str, Tensor]:
        """Samples, or rows as `mutua.data.rows` takes them, to the arguments of the model's forward.

        Raises:
            ValueError: a row that is no sample, has no reply to learn from, or is too long; the message names it.
        """
        samples = [
            row if isinstance(row, Sample) else sample_from_row(row, f"row {place} of the batch")
            for place, row in enumerate(rows)
        ]
        batch = encode(samples, self.processor)
        lengths_B, learned_B = batch["attention_mask"].sum(-1), (batch["labels"] != IGNORE).any(-1)
        for sample, length, is_learned in zip(samples, lengths_B.tolist(), learned_B.tolist(), strict=True):
            if self.max_tokens is not None and length > self.max_tokens:
                raise ValueError(f"sample {sample.id!r} has {length} tokens, and max_tokens allows {self.max_tokens}.")
            if not is_learned:
                raise ValueError(f"sample {sample.id!r} holds no reply to learn from: give it an assistant message.")
        return batch


def supervised_positions(labels_BN: Tensor) -> Tensor:
    """(T,) where `labels_BN.flatten()` is supervised, for the model's forward.

    The first token of a row follows nothing, so it cannot be predicted and is left out.
    """
    is_supervised_BN = labels_BN != IGNORE
    is_supervised_BN[:, 0] = False
    return is_supervised_BN.flatten().nonzero()[:, 0]


def encode_prompts(samples: Sequence[Sample], processor: Any) -> dict[str, Tensor]:
    """The processor's tensors for prompts that wait for a reply, padded on the left as `generate` needs them.

    Raises:
        SampleError: a sample cannot be encoded; the message names it and its source.
    """
    chats, is_ours = [sample.prompt() for sample in samples], isinstance(processor, MutuaProcessor)
    try:
        names = [named(sample) for sample in samples]
        batch = dict(encode_conversations(chats, processor, names))
        if not is_ours:
            batch[ROLES] = roles_of(processor, chats, batch, add_generation_prompt=True).to_codes()
    except ValueError as error:
        raise SampleError(str(error)) from error
    return batch


def named(sample: Sample) -> str:
    """How an error names a sample; empty where its source is not known."""
    return f"{sample.source}: sample {sample.id!r}" if sample.source else ""
