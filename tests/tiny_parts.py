"""Tiny configs of every vision encoder and language model that docs/compose.md names, and a text-only tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_model import CORPUS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SiglipVisionConfig,
    SmolLM3Config,
)

import mutua
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor

_VISION: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
_VISION |= {"patch_size": 8}
_TEXT: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT |= {"num_key_value_heads": 2, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 1}
_TEXT |= {"pad_token_id": None, "max_position_embeddings": 512}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
}

# 16 patches each.
VISION: dict[str, Callable[[], Any]] = {
    "siglip": lambda: SiglipVisionConfig(**_VISION, intermediate_size=64),
    "clip": lambda: CLIPVisionConfig(**_VISION, intermediate_size=64),
    "dinov2": lambda: Dinov2Config(**_VISION, mlp_ratio=2),
    "dinov2_with_registers": lambda: Dinov2WithRegistersConfig(**_VISION, mlp_ratio=2, num_register_tokens=3),
    "dinov3": lambda: DINOv3ViTConfig(**_VISION, intermediate_size=64, num_register_tokens=4),
}

LANGUAGE: dict[str, Callable[..., Any]] = {
    "llama": lambda **more: LlamaConfig(**{**_TEXT, **more}),
    "smollm2": lambda **more: LlamaConfig(**{**_TEXT, "tie_word_embeddings": True, **more}),
    "phi3": lambda **more: Phi3Config(**{**_TEXT, "sliding_window": None, **more}),
    "phi3-longrope": lambda **more: Phi3Config(
        **{**_TEXT, "original_max_position_embeddings": 256, "rope_parameters": LONGROPE, **more}
    ),
    # A head with a bias.
    "phi": lambda **more: PhiConfig(**{**_TEXT, **more}),
    "qwen3": lambda **more: Qwen3Config(**{**_TEXT, "head_dim": 8, **more}),
    "smollm3": lambda **more: SmolLM3Config(**{**_TEXT, "num_hidden_layers": 4, **more}),
    "mistral": lambda **more: MistralConfig(**{**_TEXT, "sliding_window": 6, **more}),
    "gemma3": lambda **more: Gemma3TextConfig(
        **{**_TEXT, "head_dim": 8, "sliding_window": 6, "num_hidden_layers": 3, **more},
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
}


def text_tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """As a language model's own: no `<image>`, no padding token, no chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", **special)


@dataclass(frozen=True)
class Composed:
    """A model from folders, and its parts as Transformers has them."""

    vision: Any
    language: Any
    model: MutuaForConditionalGeneration
    processor: MutuaProcessor
    folder: Path


def compose_from_folders(folder: Path, vision: str, language: str, **sizes: Any) -> Composed:
    """The language model's table has 304 rows for a vocabulary of 300, unless `sizes` say otherwise."""
    torch.manual_seed(0)
    encoder = AutoModel.from_config(VISION[vision]()).eval()
    alone = AutoModelForCausalLM.from_config(LANGUAGE[language](**{"vocab_size": 304, **sizes})).eval()
    encoder.save_pretrained(folder / "vision")
    alone.save_pretrained(folder / "language")
    text_tokenizer().save_pretrained(folder / "language")
    model, processor = mutua.compose(vision=folder / "vision", connector="mlp", language=folder / "language")
    # From the files, too: fast sums depend on how weights lie in memory, and equal means equal bit by bit.
    encoder = AutoModel.from_pretrained(folder / "vision")
    alone = AutoModelForCausalLM.from_pretrained(folder / "language")
    return Composed(encoder, alone, model, processor, folder)
