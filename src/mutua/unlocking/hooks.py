"""What an unlocked model does around its forwards: finds the roles, and hands the request to its language model.

The roles travel beside the inputs, as `token_roles`, down to the module that makes the attention masks. There they
become a `MaskRequest` in the place of the padding mask, as in our own model, so the same backends serve both. Nothing
but arguments carries state from one to the other: copies, threads and traces need no care.

Shape suffixes: B batch, N tokens of this forward, K all tokens (cached ones included), T text width.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from mutua.attention import MaskRequest, Policy
from mutua.chat.placeholders import modalities_of
from mutua.models.checks import (
    expect_backend,
    expect_labels_on_responses,
    expect_shapes,
    expect_unpacked,
    refuse_gradients_on_prompts,
    roles_of_forward,
)
from mutua.models.text_so_far import TextSoFar
from mutua.roles import NONE, Modality, TokenRoles
from mutua.unlocking.finder import ROLES, RolesFinder

_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")  # as flash attention and state-space layers are told


@dataclass
class Settings:
    """What all hooks of one model go by.

    Attributes:
        policy: which modality looks ahead to which.
        finder: finds roles in token ids.
        config: the language model's; it names the attention implementation.
    """

    policy: Policy
    finder: RolesFinder
    config: Any


@dataclass(frozen=True)
class UnlockedRequest(MaskRequest):
    """The request of an unlocked model's forward, and the text that this forward goes on from."""

    text: TextSoFar


class _Hook:
    """A hook of one module, which may be called with positional arguments."""

    def __init__(self, settings: Settings, module: nn.Module) -> None:
        self.settings = settings
        self.names = tuple(inspect.signature(module.forward).parameters)

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self.names, args, strict=False)), **kwargs}


class GiveRoles(_Hook):
    """Before the forward of the whole model: adds the roles of its tokens to its arguments, or looks at those given.

    Raises:
        ValueError: they are not known and cannot be found, contradict the token ids, or a label stands on a prompt.
    """

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        kwargs = self._named(args, kwargs)
        ids_BN, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            shown = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(
                f"attention_mask is {shown}, but which token of an unlocked model sees which follows from its policy: "
                "pass a (batch, tokens) mask of padding, or mutua.lock(model) first."
            )
        given, cache, labels = kwargs.get(ROLES), kwargs.get("past_key_values"), kwargs.get("labels")
        if given is None:
            kwargs[ROLES] = self._find(kwargs, ids_BN, mask, cache)
        else:
            kwargs[ROLES] = given if ids_BN is None else given.to(ids_BN.device)
            self._expect_agreement(kwargs[ROLES], ids_BN, cache)
        if labels is not None:
            kwargs["labels"] = expect_labels_on_responses(labels, kwargs[ROLES], mask, self.settings.policy.name)
        return (), kwargs

    def _find(
        self, kwargs: dict[str, Any], ids_BN: Tensor | None, mask_BK: Tensor | None, cache: Cache | None
    ) -> Tensor | None:
        if ids_BN is None:
            embeds_BNT = kwargs.get("inputs_embeds")
            if cache is not None and embeds_BNT is not None and embeds_BNT.shape[1] == 1:
                return None
            raise ValueError(
                f"inputs_embeds came without {ROLES}, and embeddings do not tell who says what: pass the role codes of "
                "these tokens (mutua.chat.roles_of), or input_ids."
            )
        if cache is not None:
            if ids_BN.shape[1] == 1:  # something that the model said: there is nothing to look at
                return None
            if past := int(cache.get_seq_length()):
                raise ValueError(
                    f"{ids_BN.shape[1]} tokens came behind {past} cached ones, without {ROLES}: whether they are a "
                    "reply or a prompt is not known from them alone. Pass the role codes of these tokens, or let "
                    "model.generate go on, with the ids of the whole conversation."
                )
        if packed := [name for name in _PACKED if kwargs.get(name) is not None]:
            raise ValueError(
                f"{packed[0]} says that several samples are packed in a row, and Mutua's attention does not read it: "
                f"leave packing off, or pass {ROLES} with a document for every sample."
            )
        expect_shapes(ids_BN.shape[0], ids_BN.shape[1], 0, mask_BK, None, ROLES)
        positions = kwargs.get("position_ids")
        if positions is not None and positions.ndim == 3:  # with M-RoPE, the first of four are those of text
            positions = positions[0] if len(positions) == 4 else None
        return self.settings.finder.codes(ids_BN, mask_BK, positions if mask_BK is None else None)

    def _expect_agreement(self, codes_BN: Tensor, ids_BN: Tensor | None, cache: Cache | None) -> None:
        if torch.compiler.is_compiling():
            return
        roles = TokenRoles.from_codes(codes_BN)
        if cache is not None:
            expect_unpacked(int(roles.document_BN.max()))
        if ids_BN is None or ids_BN.shape != codes_BN.shape:
            return
        modality_BN = modalities_of(ids_BN, self.settings.finder.features)
        differs_BN = (roles.block_BN != NONE) & (modality_BN != roles.modality_BN)  # a model may say anything
        if bool(differs_BN.any()):
            row, column = (int(i) for i in differs_BN.nonzero()[0])
            by_id, by_role = (Modality(int(x[row, column])).name.lower() for x in (modality_BN, roles.modality_BN))
            raise ValueError(
                f"token {column} of row {row} is {by_id} by its id, but {by_role} by its role in {ROLES}: pass the "
                "roles of exactly these inputs."
            )


class PlaceRequest(_Hook):
    """Before the module that makes the attention masks: puts a request in the place of the padding mask.

    Raises:
        ValueError: no roles arrived, or the look-ahead would be lost on the way to the attention layers.
    """

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        kwargs = self._named(args, kwargs)
        codes_BN = kwargs.pop(ROLES, None)
        mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        tokens_BN = next(x for x in (kwargs.get("inputs_embeds"), kwargs.get("input_ids")) if x is not None)
        batch, tokens = tokens_BN.shape[:2]
        weights = kwargs.get("output_attentions")
        expect_backend(self.settings.config, weights, "mutua.unlock(model, processor, backend={})")
        if mask is not None and not isinstance(mask, Tensor):
            raise ValueError(
                f"the attention mask was made before the policy could be applied ({type(mask).__name__}): it would "
                "silently be causal."
            )
        past = 0 if cache is None else cache.get_seq_length()
        is_step = cache is not None and tokens == 1 and codes_BN is None
        if codes_BN is None and not is_step:
            raise ValueError(
                f"no {ROLES} arrived at the language model, so attention would silently be causal: call the model "
                f"itself (not its forward), or pass {ROLES}."
            )
        expect_shapes(batch, tokens, past, mask, codes_BN, ROLES)
        if codes_BN is None:
            said_BN = torch.full((batch, tokens), NONE, device=tokens_BN.device)
            zeros_BN = torch.zeros_like(said_BN)
            roles = TokenRoles(document_BN=zeros_BN, block_BN=said_BN, modality_BN=zeros_BN, item_BN=said_BN)
        else:
            roles = roles_of_forward(tokens_BN, codes_BN, mask)
        text = TextSoFar(cache, past, self.settings.policy, roles, mask, is_step, is_unlocked=True)
        kwargs["attention_mask"] = UnlockedRequest(roles, self.settings.policy, text.padding_BK, text)
        return (), kwargs


class LookBack:
    """After that module: leaves on the cache what it holds, and sees to it that nothing but replies is learned."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        request: UnlockedRequest = kwargs["attention_mask"]
        parts = out if isinstance(out, tuple) else tuple(out.values())
        request.text.note_on(next((part for part in parts if isinstance(part, Cache)), None))
        if not isinstance(out[0], Tensor):
            return out
        hidden_BNT = refuse_gradients_on_prompts(out[0], request.roles, request.policy, module.training)
        if hidden_BNT is out[0]:
            return out
        if isinstance(out, tuple):
            return (hidden_BNT, *out[1:])
        states = out.get("hidden_states")
        if states is not None and states[-1] is out[0]:
            out.hidden_states = (*states[:-1], hidden_BNT)
        out[next(iter(out))] = hidden_BNT
        return out
