"""Who says what in a batch of token ids, for a model whose own processor tells nothing of it.

With a processor, the replies are found in the ids (`ReplyPattern`); without one, the prompt of a `generate` is one
block, and any other forward has to be given its roles. Looking at ids takes the host; a compiled forward does it in an
operator, which breaks no graph.

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mutua.attention import Policy
from mutua.chat import ReplyPattern
from mutua.chat.placeholders import feature_ids_of, modalities_of
from mutua.roles import NONE, Modality, TokenRoles

ROLES = "token_roles"
"""The argument of forward and `generate` in which the role codes travel: these models use `token_type_ids` for
themselves."""

_HELD = {
    Modality.TEXT: "text that would see what follows it",
    Modality.IMAGE: "a picture",
    Modality.VIDEO: "a video",
    Modality.AUDIO: "a sound",
}
_REMEDY = f"pass the roles along: inputs[{ROLES!r}] = mutua.chat.roles_of(processor, messages, inputs).to_codes()"


@dataclass(frozen=True)
class RolesFinder:
    """Finds the roles of token ids.

    Attributes:
        features: the ids of tokens whose embeddings are replaced by features, and their modality.
        pattern: how a reply opens and ends; None where there is no processor to learn it from.
        ahead: the modalities that look ahead under the policy. If none does, it does not matter who says what.
    """

    features: dict[int, Modality]
    pattern: ReplyPattern | None
    ahead: tuple[Modality, ...]

    @classmethod
    def of(cls, config: Any, processor: Any, policy: Policy) -> RolesFinder:
        """Learns from a processor (or takes what was learned from one); None knows the model's config alone.

        Raises:
            ChatTemplateError: replies cannot be found in the processor's chat template, or not in tokens alone.
            ValueError: the processor is of another model, or the model takes nothing but text.
        """
        named = {modality: _feature_id(config, modality.name.lower()) for modality in Modality if modality}
        by_config = {index: modality for modality, index in named.items() if index is not None}
        if not by_config:
            raise ValueError(
                f"a model of type {config.model_type!r} has no image, video or audio token in its config, so there is "
                "nothing that could look ahead."
            )
        ahead = tuple(sorted({query for query, _ in policy.looks_ahead}))
        if processor is None:
            return cls(by_config, None, ahead)
        is_learned = isinstance(processor, ReplyPattern)
        if not is_learned and not hasattr(processor, "tokenizer"):
            raise ValueError(
                f"unlock takes the model's processor (AutoProcessor gives it), not {type(processor).__name__}."
            )
        features = processor.features if is_learned else feature_ids_of(processor)
        known = {index: modality for index, modality in features.items() if modality in by_config.values()}
        if not known or any(by_config.get(index) != modality for index, modality in known.items()):
            raise ValueError(
                f"the processor's placeholder tokens are {_shown(features)}, but the model's are {_shown(by_config)}: "
                "pass the model's own processor."
            )
        return cls(by_config, processor if is_learned else ReplyPattern.learn(processor), ahead)

    @property
    def is_ignorant(self) -> bool:
        """Whether it takes all tokens for one prompt block, and that matters."""
        return self.pattern is None and bool(self.ahead)

    def find(self, input_ids: Tensor, attention_mask: Tensor | None, is_prompt: bool = False) -> Tensor:
        """The role codes of token ids, (B, N).

        Args:
            attention_mask: (B, N), 0 on padding; None where there is none.
            is_prompt: every row is a prompt that waits for its reply, whatever it ends with.

        Raises:
            ValueError: it does not follow from the ids who says what.
        """
        if self.pattern is None or not self.ahead:
            is_token_BN = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            modality_BN = modalities_of(input_ids, self.features)
            document_BN = torch.where(is_token_BN.bool(), 0, NONE)
            no_BN = torch.zeros_like(document_BN, dtype=torch.bool)
            roles = TokenRoles.from_responses(no_BN, modality_BN, document_BN)
            if not is_prompt and bool(self._looks_BN(roles).any()):
                raise ValueError(
                    "the model was unlocked without its processor, so it is not known which of these tokens are "
                    "replies, and what looks ahead would see those, too: mutua.unlock(model, processor), or pass "
                    f"{ROLES}. (generate needs neither: what it is given is a prompt.)"
                )
            return roles.to_codes()
        try:
            roles = self.pattern.roles(input_ids, attention_mask)
        except ValueError as error:
            raise ValueError(f"who says what does not follow from the token ids, {error} Or {_REMEDY}.") from error
        if not is_prompt:
            self._expect_reply(input_ids, roles)
        return roles.to_codes()

    def _looks_BN(self, roles: TokenRoles) -> Tensor:
        ahead = torch.tensor([int(modality) for modality in self.ahead], device=roles.modality_BN.device)
        return torch.isin(roles.modality_BN, ahead) & roles.is_token_BN

    def _expect_reply(self, input_ids: Tensor, roles: TokenRoles) -> None:
        """A row of which something looks ahead, and without a reply, begun or due, may be anything: a raw text with its
        answer, too."""
        assert self.pattern is not None
        header = torch.tensor(self.pattern.header, device=input_ids.device)
        looks_BN = self._looks_BN(roles)
        has_reply_B = roles.is_response_BN.any(-1)
        for row in (looks_BN.any(-1) & ~has_reply_B).nonzero()[:, 0].tolist():
            ids_N = input_ids[row][roles.is_token_BN[row]]
            if not torch.equal(ids_N[-len(header) :], header):
                held = _HELD[Modality(int(roles.modality_BN[row][looks_BN[row]].max()))]
                raise ValueError(
                    f"row {row} holds {held}, but no reply and no header that opens one (tokens {header.tolist()}), "
                    "so it may be a question together with its answer: make it with apply_chat_template (a prompt with "
                    f"add_generation_prompt=True), or {_REMEDY}."
                )

    def codes(self, input_ids: Tensor, attention_mask: Tensor | None, positions_BN: Tensor | None) -> Tensor:
        """The role codes for a forward that was given none; traced, by an operator.

        Args:
            positions_BN: position ids where they could tell of packed rows; else None.
        """
        if torch.compiler.is_compiling():
            return _find_compiled(input_ids, attention_mask, positions_BN, self._key)
        if positions_BN is not None and bool((positions_BN.diff(dim=-1) < 0).any()):
            raise ValueError(
                "position_ids begin anew within a row, so several samples are packed in it, and where one ends is not "
                f"known: leave packing off, or pass {ROLES} with a document for every sample."
            )
        return self.find(input_ids, attention_mask)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_key", repr(self))
        _FINDERS[self._key] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    _key = ""  # what the operator knows it by


_FINDERS: dict[str, RolesFinder] = {}


@torch.library.custom_op("mutua::find_roles", mutates_args=())
def _find_compiled(
    input_ids: Tensor, attention_mask: Tensor | None, positions_BN: Tensor | None, finder: str
) -> Tensor:
    return _FINDERS[finder].codes(input_ids, attention_mask, positions_BN)


@_find_compiled.register_fake
def _(input_ids: Tensor, attention_mask: Tensor | None, positions_BN: Tensor | None, finder: str) -> Tensor:
    return torch.empty_like(input_ids, dtype=torch.long)


def _feature_id(config: Any, name: str) -> int | None:
    """The id of the placeholder token of a modality, under the names that configs have for it."""
    for key in (f"{name}_token_id", f"{name}_token_index"):
        index = getattr(config, key, None)
        if isinstance(index, int):
            return index
    return None


def _shown(features: dict[int, Modality]) -> str:
    return ", ".join(f"{index} ({modality.name.lower()})" for index, modality in sorted(features.items())) or "none"
