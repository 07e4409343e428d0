"""What a language model must be like to take an attention policy, and the proof that it is.

Named refusals come first, as they say what is in the way. `prove_mask` then tries the model itself: whatever its config
says, it has to obey the mask that it is given. Shape suffixes: B batch, N tokens, T width, X vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING

from mutua.attention import MMA, MaskRequest
from mutua.roles import NONE, Modality, TokenRoles

# What some models do to their logits after the head, by the key of their config, and the value that does nothing.
_LOGIT_CHANGES = {
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
}
_LAYERS = {"full_attention", "sliding_attention"}


def refuse_unfit(language_model: Any) -> None:
    """Raises ValueError, naming the model's type and the reason, if it cannot be right inside a Mutua model.

    Args:
        language_model: as `AutoModelForCausalLM` gives it.
    """
    decoder, head = language_model.get_decoder(), language_model.get_output_embeddings()
    config = decoder.config
    if not isinstance(decoder, MODEL_MAPPING.get(type(config), ())):
        raise _unfit(config, "its decoder is only a part of what AutoModel makes of its config")
    if not isinstance(head, nn.Linear):
        raise _unfit(config, "it has no language-model head that is one linear layer")
    if (problem := why_no_mask(decoder)) is not None:
        raise _unfit(config, problem)
    for key, neutral in _LOGIT_CHANGES.items():
        if getattr(config, key, neutral) not in (neutral, None):
            raise _unfit(config, f"it changes its logits after the head ({key} {getattr(config, key)})")
    if head.weight is language_model.get_input_embeddings().weight and not hasattr(decoder, "embed_tokens"):
        raise _unfit(config, "its head is tied to embeddings that have another name than embed_tokens")


def why_no_mask(decoder: Any) -> str | None:
    """Why no attention mask can reach all of a decoder's layers, in a few words; None if one may."""
    config = decoder.config
    other = sorted(set(getattr(config, "layer_types", None) or ()) - _LAYERS)
    if other:
        return f"it has layers of type {', '.join(other)}, to which no attention mask applies"
    if decoder._is_stateful:
        return "it keeps a recurrent state, to which no attention mask applies"
    if not decoder._supports_attention_backend:
        return "it computes attention by itself and not through Transformers' attention interface"
    if getattr(config, "use_bidirectional_attention", False):
        return "use_bidirectional_attention is set, so its text is not causal"
    return None


def text_probe(language_model: Any, avoid: int) -> dict[str, Tensor]:
    """Two short rows of text, the second padded on the left; `avoid` is a token id that must not be in them."""
    vocabulary = language_model.get_input_embeddings().weight.shape[0]
    ids_BN = (torch.arange(20, device=language_model.device) * 7919 % vocabulary).view(2, 10)
    ids_BN = torch.where(ids_BN == avoid, (ids_BN + 1) % vocabulary, ids_BN)
    mask_BN = torch.ones_like(ids_BN)
    mask_BN[1, :3] = 0
    return {"input_ids": ids_BN, "attention_mask": mask_BN}


@torch.no_grad()
def text_logits(model: Any, probe: dict[str, Tensor]) -> Tensor:
    """Logits of the probe's real tokens, (tokens, X), from a language model or from a Mutua model."""
    positions_BN = (probe["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return model(**probe, position_ids=positions_BN, use_cache=False).logits[probe["attention_mask"].bool()]


def expect_equal_logits(composed: Tensor, alone: Tensor, config: Any) -> None:
    """Raises ValueError if the composed model's text logits are not those of the language model on its own."""
    difference, largest = float((composed - alone).abs().max()), float(alone.abs().max())
    if not difference <= rounding(alone.dtype) * largest:
        raise _unfit(
            config,
            f"without an image the composed model's logits differ from the language model's own by {difference:.2g} "
            f"(the largest is {largest:.2g}), so it does something that Mutua does not know of",
        )


@torch.no_grad()
def prove_mask(decoder: Any) -> None:
    """Perturbs a token of a question and a token of a reply, and sees which hidden states move.

    Args:
        decoder: under one of Mutua's attention backends, e.g. `MutuaModel.language_model`.

    Raises:
        ValueError: an image does not see the question after it, or something sees what it must not.
    """
    roles = probe_roles().to(decoder.device)
    index_BN = torch.arange(12, device=decoder.device)[None]
    ids_BN = index_BN % decoder.get_input_embeddings().weight.shape[0]

    def states(swapped: int | None = None) -> Tensor:
        ids = ids_BN.clone()
        if swapped is not None:
            ids[0, swapped] = ids[0, swapped - 1]
        embeds_BNT = decoder.get_input_embeddings()(ids)
        try:
            out = decoder(
                inputs_embeds=embeds_BNT,
                attention_mask=MaskRequest(roles, MMA, None),
                position_ids=index_BN,
                use_cache=False,
            )
        except (TypeError, AttributeError, RuntimeError, ValueError, IndexError) as error:
            raise _unfit(decoder.config, f"it fails on an attention mask of Mutua's ({error})") from error
        return out.last_hidden_state[0].float()

    if (fault := fault_of(states, decoder.dtype)) is not None:
        raise _unfit(decoder.config, fault)


def probe_roles(modality: Modality = Modality.IMAGE) -> TokenRoles:
    """Of one row: a prompt of 8 tokens, of which 1-3 are an image (or of another modality), and a reply of 4."""
    index_BN = torch.arange(12)[None]
    is_item_BN = (index_BN >= 1) & (index_BN <= 3)
    return TokenRoles(
        document_BN=torch.zeros_like(index_BN),
        block_BN=torch.where(index_BN < 8, 0, NONE),
        modality_BN=torch.where(is_item_BN, int(modality), int(Modality.TEXT)),
        item_BN=torch.where(is_item_BN, 0, NONE),
    )


def fault_of(states: Callable[[int | None], Tensor], dtype: torch.dtype) -> str | None:
    """What is wrong with a model under `mma`, in a few words; None if nothing is.

    Args:
        states: the hidden states of the row of `probe_roles`, (12, T), with another token in the given place, if any.
        dtype: in which the model computes.
    """
    before = states(None)
    smallest = rounding(dtype) * float(before.abs().max())
    by_question, by_reply = ((before - states(swapped)).abs().amax(-1) for swapped in (6, 10))
    if not bool((by_question[1:4] > 0).all()):
        return "an image does not see the question after it, so some layers ignore the mask"
    if float(by_question[0]) > smallest:  # text behind the image sees the question through the image
        return "text sees later text, so some layers ignore the mask"
    if float(by_reply[:10].max()) > smallest:
        return "a prompt sees its reply, so some layers ignore the mask"
    return None


def rounding(dtype: torch.dtype) -> float:
    """How far two ways to compute the same may differ, relative to the largest value: 6e-6 in float32."""
    return float(torch.finfo(dtype).eps ** 0.75)


def _unfit(config: Any, reason: str) -> ValueError:
    return ValueError(
        f"the language model type {config.model_type!r} cannot be used: {reason}. docs/compose.md lists those that can."
    )
