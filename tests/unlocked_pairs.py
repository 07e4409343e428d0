"""Tiny random models of other people's families, each with its own processor."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as t
import unlocked_families as families
from vlm_processors import FAMILIES

PROCESSOR = {family.name: family.make for family in FAMILIES}


@cache
def llava() -> tuple[Any, Any]:
    torch.manual_seed(0)
    processor = PROCESSOR["llava"]()
    text = t.LlamaConfig(**{**families.TEXT, "vocab_size": len(processor.tokenizer)})
    return _with_ends(families.llava(text, processor.image_token_id), processor)


@cache
def qwen2_5_vl() -> tuple[Any, Any]:
    processor = PROCESSOR["qwen2_5_vl"]()
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    names |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    ids = processor.tokenizer.convert_tokens_to_ids
    tokens = {f"{name}_token_id": ids(token) for name, token in names.items()}
    return _with_ends(families.qwen2_5_vl(len(processor.tokenizer), tokens), processor)


def idefics3() -> tuple[Any, Any]:
    """As SmolVLM, without its video processor. Made anew each time, to be trained."""
    processor = PROCESSOR["idefics3"]()
    processor.image_seq_len = 4
    return _with_ends(families.idefics3(len(processor.tokenizer), processor.image_token_id), processor)


def _with_ends(model: Any, processor: Any) -> tuple[Any, Any]:
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return model.eval(), processor


def save_llava(folder: Path) -> None:
    """Model and processor, as the hub has them."""
    model, processor = llava()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
