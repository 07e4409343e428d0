"""Tiny random models of other people's families, each with its own processor."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import transformers as t
from unlocked_families import TEXT, VISION
from vlm_processors import FAMILIES

PROCESSOR = {family.name: family.make for family in FAMILIES}


@cache
def llava() -> tuple[Any, Any]:
    processor = PROCESSOR["llava"]()
    text = t.LlamaConfig(**{**TEXT, "vocab_size": len(processor.tokenizer)})
    vision = t.CLIPVisionConfig(**{**VISION, "patch_size": 8})
    config = t.LlavaConfig(vision_config=vision, text_config=text, image_token_index=processor.image_token_id)
    return _with_ends(t.LlavaForConditionalGeneration(config), processor)


@cache
def qwen2_5_vl() -> tuple[Any, Any]:
    processor = PROCESSOR["qwen2_5_vl"]()
    ids = processor.tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32}
    vision |= {"patch_size": 4, "spatial_merge_size": 2, "window_size": 16, "fullatt_block_indexes": [0]}
    config = t.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={**TEXT, "vocab_size": len(processor.tokenizer), "rope_parameters": rope},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    return _with_ends(t.Qwen2_5_VLForConditionalGeneration(config), processor)


def _with_ends(model: Any, processor: Any) -> tuple[Any, Any]:
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return model.eval(), processor


def save_llava(folder: Path) -> None:
    """Model and processor, as the hub has them."""
    model, processor = llava()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
