"""What our model tells Transformers' `generate`: which codes, images and positions each of its forwards gets.

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList

from mutua.attention import get_policy
from mutua.models.longest_text import fit_reply
from mutua.models.text_so_far import SAID
from mutua.roles import Modality, TokenRoles, response_codes

_IMAGES = ("pixel_values", "vision_features")


class NotFiniteError(ValueError):
    """The model computes nan where scores of tokens should be."""


class _Finite(LogitsProcessor):
    """Refuses to choose among numbers that are none: the first token, which may be padding, would be said for ever.

    The first scores are looked at before anything is said, all others in the end: to look at each would cost every
    decoded token a wait for the device.
    """

    def __init__(self) -> None:
        self._found: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        found = scores.isnan().any()
        if self._found is None:
            self._found = found
            self.check()
        self._found = self._found | found
        return scores

    def check(self) -> None:
        """Raises NotFiniteError where any of the scores so far was nan."""
        if self._found is not None and bool(self._found):
            raise NotFiniteError(
                "the model computes numbers that are not finite (nan), so there is no answer: its weights or its "
                "config are damaged, or its numbers are too large for the dtype (float16): load it in bfloat16 or "
                "float32."
            )


def padded_as(codes_BN: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The role codes, in which nothing that the mask shows is padding: Transformers drops a mask without padding."""
    if attention_mask is None or attention_mask.shape != codes_BN.shape:
        return codes_BN
    return TokenRoles.from_codes(codes_BN, attention_mask).to_codes()


def expect_cached_text(cache: Cache | None, ids_BN: Tensor | None, attention_mask: Tensor | None) -> None:
    """Raises ValueError where `generate` would go on from a cache of another text: Transformers looks at its length
    alone. (New ids alone, with the mask of all tokens, are taken at their word.)"""
    past = 0 if cache is None else int(cache.get_seq_length())
    is_mask_odd = attention_mask is not None and attention_mask.ndim != 2  # that is Transformers' to tell
    if not past or ids_BN is None or ids_BN.ndim != 2 or is_mask_odd:
        return
    tokens = ids_BN.shape[1]
    if attention_mask is not None and attention_mask.shape[1] == past + tokens:
        return
    if tokens <= past:
        raise ValueError(
            f"input_ids hold {tokens} tokens and the cache {past}: pass the ids of the whole conversation, cached ones "
            "included, and an attention_mask of the same shape; or an empty cache for another text."
        )
    said_BN: Tensor | None = getattr(cache, SAID, None)
    if said_BN is None or len(said_BN) != len(ids_BN):
        return
    known = min(past, said_BN.shape[1])
    differs_BN = said_BN[:, :known].to(ids_BN.device) != ids_BN[:, :known]
    if attention_mask is not None and attention_mask.shape == ids_BN.shape:
        differs_BN &= attention_mask[:, :known].bool()
    if bool(differs_BN.any()):
        row, column = (int(i) for i in differs_BN.nonzero()[0])
        raise ValueError(
            f"the cache holds another text than input_ids: token {column} of row {row} is {int(said_BN[row, column])} "
            f"there, and {int(ids_BN[row, column])} here. Pass the ids of the whole conversation as they were said, or "
            "an empty cache for another text."
        )


def _note_what_was_said(cache: Cache | None, said: Any, kwargs: Mapping[str, Any]) -> None:
    """Leaves the ids on a cache that is the caller's, for `expect_cached_text`."""
    ids_BN = said if isinstance(said, Tensor) else getattr(said, "sequences", None)
    cache = getattr(said, "past_key_values", None) if cache is None else cache
    if isinstance(cache, Cache) and ids_BN is not None and kwargs.get("inputs_embeds") is None:
        setattr(cache, SAID, ids_BN)


def generate_finite(
    generate: Callable[..., Any],
    inputs: Tensor | None,
    generation_config: GenerationConfig | None,
    logits_processor: Iterable[LogitsProcessor] | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """What Transformers' `generate` says; NotFiniteError where the model's numbers are none (nan)."""
    finite = _Finite()
    processors = LogitsProcessorList([finite, *(logits_processor or ())])
    said = generate(inputs, generation_config, processors, *args, **kwargs)
    finite.check()
    _note_what_was_said(kwargs.get("past_key_values"), said, kwargs)
    return said


def refuse_options(config: GenerationConfig, kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError where `generate` would go on from answers, cut a prompt block, which loses look-ahead, or run a
    cached text again."""
    if kwargs.get("labels") is not None:
        raise ValueError(
            "generate was given labels: it would go on from conversations that hold their answers "
            "(predict_with_generate does so): pass prompts alone, or evaluate with `mutua eval`."
        )
    chunk = kwargs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
    if chunk is not None:
        raise ValueError(
            f"prefill_chunk_size={chunk} would cut prompt blocks, and images could no longer see the question "
            "that follows them: leave it out."
        )
    cache = kwargs.get("past_key_values")
    for name in ("assistant_model", "prompt_lookup_num_tokens"):
        if kwargs.get(name, getattr(config, name, None)) is not None and cache is not None and cache.get_seq_length():
            raise ValueError(
                f"{name} and past_key_values: Transformers would run the cached text a second time behind itself: "
                "leave one of them out."
            )


class RolesInGeneration(GenerationMixin):
    """Generation for a model whose token roles travel in `token_type_ids`."""

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Iterable[LogitsProcessor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As in Transformers, but that no image placeholder is ever said, that a reply ends where the language model
        has no more positions (with a warning), that nothing is said where the model's numbers are none (nan), and that
        `prefill_chunk_size` is refused: a prefill cut inside a block would lose look-ahead."""
        config = generation_config or self.generation_config
        ids_BN = kwargs.get("input_ids") if inputs is None else inputs
        expect_cached_text(kwargs.get("past_key_values"), ids_BN, kwargs.get("attention_mask"))
        # A visual token without its image would stop the forward pass after it, and the whole batch with it.
        given = kwargs.pop("suppress_tokens", None)
        for one in (config, self.generation_config):  # as Transformers fills what a config of the caller's leaves open
            given = one.suppress_tokens if given is None else given
        never = given.tolist() if isinstance(given, Tensor) else list(given or [])
        settings: dict[str, Any] = {"suppress_tokens": list(dict.fromkeys([*never, self.config.image_token_id]))}
        room = fit_reply(self.config.text_config, _prompt_tokens(inputs, kwargs), kwargs, config)
        if room is not None:
            settings["max_new_tokens"] = room
        if generation_config is None:
            kwargs |= settings
        else:  # Transformers takes a config or options of its own, not both
            generation_config = deepcopy(generation_config)
            for name, value in settings.items():
                setattr(generation_config, name, value)
                kwargs.pop(name, None)  # or it would count before the config
            if room is not None:
                kwargs.pop("max_length", None)
        if kwargs.get("assistant_model") is not None and any(kwargs.get(key) is not None for key in _IMAGES):
            raise ValueError(
                "assistant_model: Transformers hands the assistant no pictures, so it cannot guess about them: use "
                "prompt_lookup_num_tokens, which needs no other model."
            )
        refuse_options(config, kwargs)
        uses_cache = kwargs.get("use_cache", getattr(config, "use_cache", True))
        if kwargs.get("inputs_embeds") is not None and uses_cache is False:
            raise ValueError(
                "generate(inputs_embeds=..., use_cache=False): Transformers keeps no embeddings for the second token: "
                "leave use_cache out, or pass input_ids."
            )
        if "prepare_inputs_for_generation" in vars(self):  # PEFT's prompt learning puts its own here
            if any(kwargs.get(key) is not None for key in _IMAGES):
                raise ValueError(
                    "images came, and PEFT's prompt and prefix tuning drop token_type_ids (the token roles): use LoRA."
                )
        elif (codes_BN := kwargs.get("token_type_ids")) is not None:
            if kwargs.get("attention_mask") is None and kwargs.get("past_key_values") is None:
                is_token_BN = TokenRoles.from_codes(codes_BN).is_token_BN
                if not bool(is_token_BN.any(-1).all()):
                    raise ValueError(
                        "token_type_ids hold no roles (zero is padding, and a row has nothing else): pass those that "
                        "the processor returned, or none with text alone."
                    )
                kwargs["attention_mask"] = is_token_BN.long()
            kwargs["token_type_ids"] = padded_as(codes_BN, kwargs.get("attention_mask"))
            kwargs["prompt_length"] = codes_BN.shape[1]
        return generate_finite(super().generate, inputs, generation_config, logits_processor, *args, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, prompt_length: int | None = None, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As in Transformers, which lengthens `token_type_ids` by repeating the last code. What comes after the prompt
        is the model's (or, in assisted decoding, a guess at it): responses, never part of a block."""
        codes_BN = kwargs.get("token_type_ids")
        if codes_BN is not None and prompt_length is not None:
            new_BN = response_codes(codes_BN[:, prompt_length - 1 : prompt_length]).expand_as(
                codes_BN[:, prompt_length:]
            )
            kwargs["token_type_ids"] = torch.cat([codes_BN[:, :prompt_length], new_BN], dim=1)
        cache, positions_BN = kwargs.get("past_key_values"), kwargs.get("position_ids")
        tokens = kwargs.get("next_sequence_length") or input_ids.shape[1]
        images = {key: kwargs.pop(key) for key in _IMAGES if key in kwargs}
        # Behind a cache the images are in it; without one, all of the text comes again.
        needs_images = kwargs.get("is_first_iteration", False) or not kwargs.get("use_cache", True)
        now_BN = None if positions_BN is None else positions_BN[:, -tokens:]
        if cache is not None and now_BN is not None and passes_rope_switch(self.config.text_config, now_BN, cache):
            # As Transformers' Phi-3 does: from the start, without the cache.
            kwargs |= {"past_key_values": None, "next_sequence_length": None}
            needs_images = True
        inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        is_step = not needs_images and inputs["input_ids"].shape[1] == 1
        if is_step:  # a token without a code is a response, and the model need not look at it to know
            inputs.pop("token_type_ids", None)
        return {**inputs, **(images if needs_images else {})}

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        # Beams: Transformers repeats every tensor row by row, but a row may own several images, or none.
        images = {key: model_kwargs.pop(key) for key in _IMAGES if model_kwargs.get(key) is not None}
        if expand_size > 1 and images and model_kwargs.get("token_type_ids") is not None:
            counts = TokenRoles.from_codes(model_kwargs["token_type_ids"]).count_items(Modality.IMAGE).tolist()
            for key, value in images.items():
                if sum(counts) != len(value):
                    raise ValueError(
                        f"{key} holds {len(value)} images, but token_type_ids tell of {sum(counts)}: both must come "
                        "from one MutuaProcessor call."
                    )
                images[key] = torch.cat([own.repeat(expand_size, *[1] * (own.ndim - 1)) for own in value.split(counts)])
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **images}

    @staticmethod
    def create_masks_for_generate(
        attention_mask: Tensor | None, inputs_embeds: Tensor, past_key_values: Cache, **kwargs: Any
    ) -> Tensor:
        """`generate` asks for a finished mask when the cache is static; ours is built in `forward`, for every cache.

        A mask without padding has been dropped by then, and a static cache cannot tell that it holds none.
        """
        if attention_mask is not None:
            return attention_mask
        batch, tokens = inputs_embeds.shape[:2]
        return torch.ones(
            batch, int(past_key_values.get_seq_length()) + tokens, dtype=torch.long, device=inputs_embeds.device
        )

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        # Some policies number the tokens of an image in their own way; the roles of the whole text so far tell how.
        codes_BN, policy = model_kwargs.get("token_type_ids"), get_policy(self.config.attention_policy)
        if codes_BN is None or policy.within_item != "rings":
            return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        if codes_BN.shape != model_kwargs["attention_mask"].shape:
            raise ValueError(
                f"policy {policy.name!r} needs the roles of the cached text to go on from it: pass input_ids and "
                "token_type_ids of the whole conversation, as the processor returns them."
            )
        return policy.positions(TokenRoles.from_codes(codes_BN))


def _prompt_tokens(inputs: Tensor | None, kwargs: Mapping[str, Any]) -> int:
    """Of the longest row of what `generate` is given, without padding where that is known; 0 without a prompt."""
    if (attention_mask := kwargs.get("attention_mask")) is not None and attention_mask.ndim == 2:
        return int(attention_mask.sum(-1).max())
    prompt = next((x for x in (inputs, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None), None)
    return 0 if prompt is None else prompt.shape[1]


def passes_rope_switch(text_config: Any, position_ids_BN: Tensor, cache: Cache) -> bool:
    """Whether the cached keys were encoded with longrope's short factors and this forward takes the long ones."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope" or torch.compiler.is_compiling() or cache.get_seq_length() == 0:
        return False
    switch = rope["original_max_position_embeddings"]
    # No position is above the number of tokens: most forwards need no look at the data.
    if cache.get_seq_length() + position_ids_BN.shape[1] <= switch:
        return False
    return int(position_ids_BN[:, 0].max()) <= switch <= int(position_ids_BN.max())
