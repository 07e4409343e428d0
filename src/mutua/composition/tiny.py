"""The preset `tiny`, small enough to train where you are: sizes, a tokenizer learned from data, a chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast, SiglipVisionConfig
from transformers.models.siglip import SiglipImageProcessorPil

from mutua.composition.tokenizer import IMAGE, TEXT_MACRO
from mutua.models.configuration import MutuaConfig
from mutua.models.generation_config import reply_config
from mutua.models.modeling import MutuaForConditionalGeneration
from mutua.models.processing import MutuaProcessor

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
    vision: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> MutuaConfig:
    """A model for small pictures that trains on a laptop: 6 x 6 patches of 12 pixels, about 1.4 million weights.

    `vision` and `text` replace sizes of the encoder and of the language model, `overrides` anything else.
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
    }
    resampler = {"resampler_latents": 16, "resampler_depth": 2, "resampler_heads": 4, "resampler_head_dim": 32}
    return MutuaConfig(
        vision_config=SiglipVisionConfig(**{**vision_sizes, "vision_use_head": False, **(vision or {})}),
        text_config=LlamaConfig(**{**text_sizes, **(text or {})}),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        **{"connector": "mlp", **resampler, **overrides},
    )


def tiny_model(
    tokenizer: PreTrainedTokenizerFast, config: MutuaConfig
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """The model with fresh weights, and its processor."""
    model = MutuaForConditionalGeneration(config)
    model.generation_config = reply_config(
        model.generation_config,
        pad=tokenizer.pad_token_id,
        ends=[tokenizer.eos_token_id],
        never=tokenizer.convert_tokens_to_ids([IMAGE, USER, ASSISTANT, SYSTEM]),
    )
    return model, build_processor(tokenizer, config)


def build_processor(tokenizer: PreTrainedTokenizerFast, config: MutuaConfig) -> MutuaProcessor:
    """The processor that goes with `config`: SigLIP's normalisation at the vision encoder's size."""
    size = config.vision_config.image_size
    return MutuaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": size, "width": size}),
        tokenizer=tokenizer,
        num_image_tokens=config.num_image_tokens,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
