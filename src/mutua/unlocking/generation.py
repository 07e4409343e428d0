"""What an unlocked model's `generate` does besides Transformers': it keeps in mind where the prompt ends.

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from mutua.models.generate import RolesInGeneration, expect_cached_text, generate_finite, padded_as, refuse_options
from mutua.roles import response_codes
from mutua.unlocking.finder import ROLES, RolesFinder
from mutua.unlocking.methods import Method
from mutua.unlocking.saved import SavePretrained

_PROMPT = "prompt_length"


class _Method(Method):
    """Stands in for a method, and knows how roles are found."""

    def __init__(self, model: PreTrainedModel, finder: RolesFinder) -> None:
        super().__init__(model)
        self.finder = finder


class Generate(_Method):
    """`generate`, for prompts whose roles are found before anything is said; nan is not said, but NotFiniteError."""

    name = "generate"

    def __call__(
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Iterable[LogitsProcessor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        ids_BN = kwargs.get("input_ids") if inputs is None else inputs
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        self._refuse(generation_config or self.model.generation_config, ids_BN, past, kwargs)
        expect_cached_text(cache, ids_BN, kwargs.get("attention_mask"))
        if kwargs.get(ROLES) is None:
            if ids_BN is None or ids_BN.ndim != 2 or ids_BN.is_floating_point():
                raise ValueError(
                    f"generate needs the ids of the prompt to know who says what: pass input_ids, or {ROLES} "
                    "(mutua.chat.roles_of) beside inputs_embeds."
                )
            kwargs[ROLES] = self.finder.find(ids_BN, kwargs.get("attention_mask"), is_prompt=True)
        else:
            if past and ids_BN is not None:
                kwargs[ROLES] = _roles_of_all(kwargs[ROLES], past, ids_BN.shape[1], kwargs.get("attention_mask"))
            kwargs[ROLES] = padded_as(kwargs[ROLES], kwargs.get("attention_mask"))
        kwargs[_PROMPT] = kwargs[ROLES].shape[1]
        if kwargs.get("assistant_model") is not None:
            kwargs["assistant_model"] = _Assistant(kwargs["assistant_model"])
        return generate_finite(self._call, inputs, generation_config, logits_processor, *args, **kwargs)

    def _refuse(self, config: Any, ids_BN: Tensor | None, past: int, kwargs: dict[str, Any]) -> None:
        """Raises ValueError for what would cut a prompt block, or lose the look-ahead."""
        refuse_options(config, kwargs)
        if kwargs.get("cache_implementation", getattr(config, "cache_implementation", None)) == "paged":
            NoContinuousBatching()()
        if isinstance(vars(kwargs.get("assistant_model") or self).get("generate"), Generate):
            raise ValueError(
                "assistant_model is unlocked, but Transformers lets an assistant go on from a cache that is cut inside "
                "a prompt: mutua.lock(assistant_model). It only guesses; what is said is the model's own."
            )
        mask_BK = kwargs.get("attention_mask")
        if past and ids_BN is not None and kwargs.get(ROLES) is None:
            if self.finder.is_ignorant:
                raise ValueError(
                    "the model was unlocked without its processor, so which of the cached tokens are replies is not "
                    f"known: mutua.unlock(model, processor), or pass {ROLES} (mutua.chat.roles_of)."
                )
            tokens = ids_BN.shape[1]
            if mask_BK is not None and mask_BK.shape[1] != tokens:
                raise ValueError(
                    f"input_ids hold {tokens} tokens and the cache {past}: pass the ids of the whole conversation, "
                    "cached ones included, and an attention_mask of the same shape."
                )


def _roles_of_all(codes_BN: Tensor, past: int, tokens: int, mask_BK: Tensor | None) -> Tensor:
    """The role codes that were given, of the whole conversation: cached tokens without codes are past looking ahead.

    Raises:
        ValueError: there are neither as many codes as tokens in all, nor as many as ids behind the cached tokens.
    """
    whole = tokens if mask_BK is None else mask_BK.shape[1]
    if whole == past + tokens == past + codes_BN.shape[1]:  # Transformers takes the new ids alone, too
        said_B1 = response_codes(codes_BN[:, :1])
        return torch.cat([said_B1.expand(-1, past), codes_BN], 1)
    if whole <= past or codes_BN.shape[1] != whole:
        raise ValueError(
            f"{ROLES} hold {codes_BN.shape[1]} tokens, input_ids {tokens}, the attention_mask {whole} and the cache "
            f"{past}: pass ids, mask and roles of the whole conversation; or ids and roles of what comes behind the "
            "cache, and the mask of all."
        )
    return codes_BN


class _Assistant:
    """A model that guesses, as it is, but for what it would be given and does not know."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        known = {name: value for name, value in kwargs.items() if name not in (ROLES, _PROMPT)}
        return self._model.generate(*args, **known)


class PrepareInputs(_Method):
    """`prepare_inputs_for_generation`: cuts the role codes to the tokens of the next forward.

    What comes after the prompt is the model's (or, in assisted decoding, a guess at it): responses, never part of a
    block.
    """

    name = "prepare_inputs_for_generation"

    def __call__(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        codes_BN, prompt = kwargs.pop(ROLES, None), kwargs.pop(_PROMPT, None)
        inputs = self._call(input_ids, *args, **kwargs)
        if codes_BN is None:
            return inputs
        now = inputs.get("inputs_embeds")
        now = inputs["input_ids"] if now is None else now
        cache, tokens = inputs.get("past_key_values"), now.shape[1]
        if cache is not None and tokens == 1 and not kwargs.get("is_first_iteration", False):
            return inputs  # a token without a code is a response, and nobody need look at it to know
        codes_BN = codes_BN[:, :prompt]
        missing = (0 if cache is None else int(cache.get_seq_length())) + tokens - codes_BN.shape[1]
        if missing > 0:
            said_B1 = response_codes(codes_BN[:, -1:])
            codes_BN = torch.cat([codes_BN, said_B1.expand(-1, missing)], 1)
        elif missing < 0:
            codes_BN = codes_BN[:, :missing]
        inputs[ROLES] = codes_BN[:, -tokens:]
        return inputs

    @property
    def __signature__(self) -> inspect.Signature:
        method = super().__signature__
        *named, last = method.parameters.values()
        more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in (ROLES, _PROMPT)]
        return method.replace(parameters=[*named, *more, last])


class NoContinuousBatching:
    """In the place of `init_continuous_batching`, which every way to continuous batching goes through."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError(
            "continuous batching builds causal masks of its own, under which images would not see the question: use "
            "generate, or mutua.lock(model) first."
        )


METHODS = (
    Generate.name,
    PrepareInputs.name,
    SavePretrained.name,
    "init_continuous_batching",
    "create_masks_for_generate",
)


def stand_in(model: PreTrainedModel, finder: RolesFinder) -> None:
    """Puts them on the model."""
    model.generate = Generate(model, finder)
    model.prepare_inputs_for_generation = PrepareInputs(model, finder)
    model.save_pretrained = SavePretrained(model)
    model.init_continuous_batching = NoContinuousBatching()
    # A static cache asks for finished masks; ours are made in the forward pass, for every cache.
    model.create_masks_for_generate = RolesInGeneration.create_masks_for_generate


def step_aside(model: PreTrainedModel) -> None:
    """Takes them off: the methods of the model's class are back."""
    for name in METHODS:
        vars(model).pop(name, None)
