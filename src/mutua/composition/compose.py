"""A model from any vision encoder, connector and language model."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from mutua.chat.template import ChatTemplateError
from mutua.composition.language import expect_equal_logits, prove_mask, refuse_unfit, text_logits, text_probe
from mutua.composition.parts import (
    ComposeError,
    Part,
    bare_language,
    load_language,
    load_tokenizer,
    load_vision,
    read_config,
    read_image_processor,
    vision_config,
)
from mutua.composition.presets import PRESETS
from mutua.composition.tokenizer import IMAGE, chat_template_of, prepare_tokenizer, reply_end, rows_needed
from mutua.models.configuration import MutuaConfig
from mutua.models.connectors import connector_keys
from mutua.models.generation_config import reply_config
from mutua.models.modeling import MutuaForConditionalGeneration
from mutua.models.processing import MutuaProcessor
from mutua.models.vision import given_side, image_side, vision_encoder
from mutua.quiet import quiet


def compose(
    preset: str | None = None,
    *,
    vision: Part | None = None,
    connector: str | Mapping[str, Any] | None = None,
    language: Part | None = None,
    attention_policy: str | None = None,
    vision_feature_layer: int | None = None,
    image_size: int | None = None,
    tokenizer: Any = None,
    chat_template: str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """A model on the CPU, in evaluation mode, and its processor. The connector's weights are fresh: train it first.

    Without an image the model is its language model: compared before it is returned, on two short rows.

    Args:
        preset: a name in `mutua.composition.presets.PRESETS`; what is given besides replaces parts of it.
        vision: vision encoder by hub id, by folder, or as a bare Transformers config, which means fresh weights. A
            checkpoint that holds more (SigLIP, CLIP) gives its vision part only.
        connector: "resampler" or "mlp", or a dict with sizes: {"type": "resampler", "latents": 64}.
        language: language model by hub id, by folder, as a GGUF file, or as a bare Transformers config.
        attention_policy: a name in `mutua.attention.POLICIES`; None is mma.
        vision_feature_layer: see `MutuaConfig`; None is what suits the encoder (-2 for CLIP, -1 otherwise).
        image_size: pixels a side, for encoders that take any; None is what the checkpoint's image processor says.
        tokenizer: a tokenizer, its folder or its hub id; None is the language model's own. Needed with a bare config.
        chat_template: Jinja source, or "chatml"; None is the preset's or the tokenizer's own, and for one without it
            plain lines.
        dtype: of the whole model; None is the language model's own.

    Raises:
        ComposeError: a part cannot be found or loaded, or cannot be used; the message says which and why.
    """
    parts = _parts(preset, vision, connector, language, chat_template)
    try:
        return _compose(parts, attention_policy or "mma", vision_feature_layer, image_size, tokenizer, dtype)
    except ComposeError:
        raise
    except ValueError as error:
        raise ComposeError(str(error)) from error


def outline(
    preset: str | None = None,
    *,
    vision: Part | None = None,
    connector: str | Mapping[str, Any] | None = None,
    language: Part | None = None,
    attention_policy: str | None = None,
    tokenizer: Any = None,
    chat_template: str | None = None,
) -> tuple[MutuaConfig, MutuaProcessor]:
    """The config and the processor of what `compose` would make; weights are neither read nor made.

    Raises:
        ComposeError: as `compose`, but for what only the weights show.
    """
    parts = _parts(preset, vision, connector, language, chat_template)
    try:
        tokens = prepare_tokenizer(load_tokenizer(parts["language"], tokenizer))
        with quiet(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(bare_language(read_config("language", parts["language"])))
        refuse_unfit(model)
        text_config, head = model.get_decoder().config, model.get_output_embeddings()
        text_config.vocab_size = max(len(head.weight), rows_needed(tokens))
        encoder, given = vision_config(read_config("vision", parts["vision"])), read_image_processor(parts["vision"])
        config = compose_config(
            encoder,
            text_config,
            connector=parts["connector"] or "resampler",
            attention_policy=attention_policy or "mma",
            image_size=given_side(given) if vision_encoder(encoder).any_size else None,
            image_token_id=tokens.convert_tokens_to_ids(IMAGE),
            is_tied=head.weight is model.get_input_embeddings().weight,
            lm_head_bias=head.bias is not None,
        )
        template = chat_template_of(tokens, parts["chat_template"])
        return config, MutuaProcessor.for_config(config, tokens, template, given)
    except ComposeError:
        raise
    except ValueError as error:
        raise ComposeError(str(error)) from error


def _parts(preset: str | None, *given: Any) -> dict[str, Any]:
    """Vision, connector, language and chat template, each as given or the preset's."""
    parts = dict(zip(("vision", "connector", "language", "chat_template"), given, strict=True))
    if preset is not None:
        found = _preset(preset)
        own = {key: getattr(found, key) for key in parts}
        if parts["language"] is not None:
            own["chat_template"] = None  # it was the other language model's
        parts = {key: own[key] if value is None else value for key, value in parts.items()}
    for key in ("vision", "language"):
        if parts[key] is None:
            raise ComposeError(f"{key} is missing: give a hub id, a folder or a config, or a preset's name.")
    return parts


def _preset(name: str) -> Any:
    if name in PRESETS:
        return PRESETS[name]
    if name == "tiny":
        raise ComposeError(
            "preset 'tiny' learns its tokenizer from data: train it by a recipe (model: {preset: tiny}), or load a "
            "trained one by mutua.load()."
        )
    raise ComposeError(f"no preset {name!r}; there are {', '.join(PRESETS)}.")


def _compose(
    parts: dict[str, Any],
    attention_policy: str,
    vision_feature_layer: int | None,
    image_size: int | None,
    tokenizer: Any,
    dtype: torch.dtype | None,
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    tokens = prepare_tokenizer(load_tokenizer(parts["language"], tokenizer))
    template = chat_template_of(tokens, parts["chat_template"])
    image_token_id = tokens.convert_tokens_to_ids(IMAGE)
    language = load_language(parts["language"], dtype).eval()
    refuse_unfit(language)
    if rows_needed(tokens) > language.get_input_embeddings().weight.shape[0]:
        with quiet():
            language.resize_token_embeddings(rows_needed(tokens))
    vision = load_vision(parts["vision"], language.dtype).eval()
    given = read_image_processor(parts["vision"])
    if image_size is None and vision_encoder(vision.config).any_size:
        image_size = given_side(given)

    # Before the parts become one model, which sets its own attention backend in the language model's config.
    probe = text_probe(language, avoid=image_token_id)
    alone, head = text_logits(language, probe), language.get_output_embeddings()
    config = compose_config(
        vision.config,
        language.get_decoder().config,
        connector=parts["connector"] or "resampler",
        attention_policy=attention_policy,
        vision_feature_layer=vision_feature_layer,
        image_size=image_size,
        image_token_id=image_token_id,
        is_tied=head.weight is language.get_input_embeddings().weight,
        lm_head_bias=head.bias is not None,
    )
    model = _assemble(config, vision, language)
    prove_mask(model.model.language_model)
    expect_equal_logits(text_logits(model, probe), alone, config.text_config)
    own = deepcopy(language.generation_config)
    if tokenizer is not None:
        own.eos_token_id = None  # a token of the language model's own vocabulary
    model.generation_config = reply_config(
        own,
        pad=tokens.pad_token_id,
        ends=[*_end(tokens, template), *([tokens.eos_token_id] if own.eos_token_id is None else [])],
        never=[image_token_id],
    )
    return model, MutuaProcessor.for_config(config, tokens, template, given)


def _end(tokens: Any, template: str) -> list[int]:
    """What ends a reply by the chat template, which is what a training teaches to say; a base model's own configs have
    another token. Of a template that only variables of the call make sense of (a date), nothing is known."""
    try:
        end = reply_end(tokens, template)
    except ChatTemplateError:
        return []
    return [] if end is None else [end]


def compose_config(
    vision_config: Any,
    text_config: Any,
    *,
    connector: str | Mapping[str, Any],
    attention_policy: str,
    image_token_id: int,
    is_tied: bool,
    lm_head_bias: bool = False,
    vision_feature_layer: int | None = None,
    image_size: int | None = None,
) -> MutuaConfig:
    """The config of a model of these parts; arguments as in `compose`."""
    text_config.tie_word_embeddings = is_tied
    if vision_feature_layer is None:
        vision_feature_layer = vision_encoder(vision_config).feature_layer
    return MutuaConfig(
        vision_config=vision_config,
        text_config=text_config,
        attention_policy=attention_policy,
        vision_feature_layer=vision_feature_layer,
        image_size=None if image_size == image_side(vision_config) else image_size,
        image_token_id=image_token_id,
        lm_head_bias=lm_head_bias,
        **connector_keys(connector),
    )


def _assemble(config: MutuaConfig, vision: Any, language: Any) -> MutuaForConditionalGeneration:
    """The model with the parts' own tensors (no copies) and a fresh connector; nothing else missing, nothing left."""
    weights: dict[str, Tensor] = {}
    for prefix, part in (
        ("model.vision_tower", vision),
        ("model.language_model", language.get_decoder()),
        ("lm_head", language.get_output_embeddings()),
    ):
        weights |= {f"{prefix}.{name}": tensor for name, tensor in part.state_dict().items()}
    with quiet():  # the connector's weights are fresh, as they should be
        model, info = MutuaForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=weights, dtype=language.dtype, output_loading_info=True
        )
    fresh = {f"model.connector.{name}" for name in model.model.connector.state_dict()}
    wrong = sorted((set(info["missing_keys"]) ^ fresh) | set(info["unexpected_keys"]))
    if wrong or info["mismatched_keys"]:
        raise ComposeError(
            f"{config.text_config.model_type} and {config.vision_config.model_type}: {len(wrong)} weights found no "
            f"place or no origin, e.g. {', '.join([*wrong, *map(str, info['mismatched_keys'])][:3])}."
        )
    return model.eval()
