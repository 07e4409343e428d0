"""The preset `tiny`, small enough to train where you are: sizes, a tokenizer learned from data, a chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from mutua.composition.language import prove_mask, refuse_unfit
from mutua.composition.tokenizer import IMAGE, TEXT_MACRO
from mutua.models.configuration import MutuaConfig
from mutua.models.generation_config import reply_config
from mutua.models.modeling import MutuaForConditionalGeneration
from mutua.models.processing import MutuaProcessor
from mutua.models.vision import vision_encoder

PAD, USER, ASSISTANT, SYSTEM, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"
SPECIAL_TOKENS = (PAD, IMAGE, USER, ASSISTANT, SYSTEM, END)

# The end token belongs to the reply: the model has to say it.
CHAT_TEMPLATE = (
    TEXT_MACRO + "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- text(message['content']) + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- text(message['content']) + '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: learned from `texts`, yet able to spell anything."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[IMAGE, USER, ASSISTANT, SYSTEM],
        padding_side="left",  # generation; training pads right by itself
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny_config(
    tokenizer: PreTrainedTokenizerFast,
    *,
    vision: Mapping[str, Any] | PreTrainedConfig | None = None,
    text: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> MutuaConfig:
    """A model for small pictures that trains on a laptop: 6 x 6 patches of 12 pixels, about 1.4 million weights.

    Args:
        vision: sizes of the encoder, or the config of another one.
        text: sizes of the language model, and its `model_type` where it is to be another than llama.
        overrides: any other keys of the config.

    Raises:
        ValueError: the config of a language model of that type has other keys for its sizes.
    """
    vision_sizes = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 72,
        "patch_size": 12,
    }
    text_sizes = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        **(text or {}),
    }
    if not isinstance(vision, PreTrainedConfig):
        vision = SiglipVisionConfig(**{**vision_sizes, "vision_use_head": False, **(vision or {})})
    resampler = {"resampler_latents": 16, "resampler_depth": 2, "resampler_heads": 4, "resampler_head_dim": 32}
    return MutuaConfig(
        vision_config=vision,
        text_config=_text_config(**text_sizes),
        vision_feature_layer=vision_encoder(vision).feature_layer,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        **{"connector": "mlp", **resampler, **overrides},
    )


def _text_config(model_type: str = "llama", **sizes: Any) -> PreTrainedConfig:
    """A language model of any type, with the heads that a Llama of these sizes has: what a type leaves out there, it
    takes from its largest model."""
    known = CONFIG_MAPPING[model_type]().to_dict()
    if missing := [key for key in sizes if key not in known]:
        raise ValueError(
            f"model_type {model_type!r} has no key {missing[0]!r} in its config, so it takes no sizes of this preset: "
            "choose another type, such as llama, qwen3 or phi3."
        )
    config = AutoConfig.for_model(model_type, **sizes)
    own = {"num_key_value_heads": config.num_attention_heads}
    own["head_dim"] = config.hidden_size // config.num_attention_heads
    for key, size in own.items():
        if key in known and key not in sizes:
            setattr(config, key, size)
    return config


def tiny_model(
    tokenizer: PreTrainedTokenizerFast,
    config: MutuaConfig,
    vision: nn.Module | None = None,
    pictures: Mapping[str, Any] | None = None,
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """The model with fresh weights, and its processor.

    Args:
        vision: an encoder of the config's, whose weights are taken over.
        pictures: what its checkpoint says of pictures (see `image_processor`).

    Raises:
        ValueError: the language model cannot be right inside a Mutua model.
    """
    with torch.device("meta"):  # of a copy: Transformers notes its own choice of a backend in what it is given
        refuse_unfit(AutoModelForCausalLM.from_config(deepcopy(config.text_config)))
    model = MutuaForConditionalGeneration(config).eval()
    prove_mask(model.model.language_model)
    model.train()
    if vision is not None:
        model.model.vision_tower.load_state_dict(vision.state_dict())
    model.generation_config = reply_config(
        model.generation_config,
        pad=tokenizer.pad_token_id,
        ends=[tokenizer.eos_token_id],
        never=tokenizer.convert_tokens_to_ids([IMAGE, USER, ASSISTANT, SYSTEM]),
    )
    return model, MutuaProcessor.for_config(config, tokenizer, CHAT_TEMPLATE, pictures)
