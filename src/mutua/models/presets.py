"""Models by name. `PRESETS` are put together from published parts by `mutua.compose`; `tiny` is small enough to train
where you are: sizes, a tokenizer and a chat template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast, SiglipVisionConfig
from transformers.models.siglip import SiglipImageProcessorPil

from mutua.models.configuration import MutuaConfig
from mutua.models.processing import MutuaProcessor
from mutua.models.tokens import IMAGE, TEXT_MACRO


@dataclass(frozen=True)
class Preset:
    """Parts by their hub ids, and how they are connected. The connector's weights are fresh."""

    summary: str
    vision: str
    language: str
    connector: Mapping[str, Any] = field(default_factory=dict)
    attention_policy: str = "mma"


PRESETS: dict[str, Preset] = {
    "aki-4b": Preset(
        "the paper's: 144 visual tokens, 4.3 billion weights",
        vision="google/siglip-so400m-patch14-384",
        language="microsoft/Phi-3.5-mini-instruct",
        connector={"type": "resampler", "latents": 144, "depth": 6, "heads": 8, "head_dim": 64, "ff_mult": 4},
    ),
    "smollm3-3b": Preset(
        "as aki-4b with open training data: SigLIP 2 and SmolLM3, 3.6 billion weights",
        vision="google/siglip2-so400m-patch14-384",
        language="HuggingFaceTB/SmolLM3-3B",
        connector={"type": "resampler", "latents": 144},
    ),
    "qwen3-2b": Preset(
        "SigLIP 2 and Qwen3-1.7B, 2.2 billion weights",
        vision="google/siglip2-so400m-patch14-384",
        language="Qwen/Qwen3-1.7B",
        connector={"type": "resampler", "latents": 144},
    ),
    "smollm2-360m": Preset(
        "one GPU or a patient CPU: every patch is a token, 196 an image, 0.5 billion weights",
        vision="google/siglip2-base-patch16-224",
        language="HuggingFaceTB/SmolLM2-360M-Instruct",
        connector={"type": "mlp"},
    ),
    "smollm2-135m": Preset(
        "for a CPU: 196 tokens an image, 0.2 billion weights",
        vision="google/siglip2-base-patch16-224",
        language="HuggingFaceTB/SmolLM2-135M-Instruct",
        connector={"type": "mlp"},
    ),
}

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
