"""Tiny random models of other people's families, and batches for them, written as token ids.

A chat of ids: USER, words and pictures, ASSISTANT, words, END, and again. The roles of every token are known here by
heart, so what `unlock` finds is compared with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers as t
from torch import Tensor

from mutua.chat import ReplyPattern
from mutua.roles import NONE, Modality, TokenRoles

PAD, USER, ASSISTANT, END = 0, 1, 2, 3
WORDS = range(10, 60)
IMAGE, VIDEO, OPENS, CLOSES, AUDIO = 90, 91, 92, 93, 94
VOCABULARY = 100
NOT_WORDS = [index for index in range(VOCABULARY) if index not in WORDS]
FEATURES = {IMAGE: Modality.IMAGE, VIDEO: Modality.VIDEO, AUDIO: Modality.AUDIO}

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": END,
    "tie_word_embeddings": False,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}

Pixels = Callable[[list[int], torch.Generator], dict[str, Tensor]]


def side() -> int:
    """Of a picture, in pixels; larger where `VISION` is given another size, as benchmarks/unlocked.py does."""
    return int(VISION["image_size"])


def _noise(generator: torch.Generator, count: int, *shape: int) -> Tensor:
    """One item after the other, so that the first of a batch is what it is alone."""
    return torch.stack([torch.randn(*shape, generator=generator) for _ in range(count)])


def _flat(counts: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    return {"pixel_values": _noise(generator, sum(counts), 3, side(), side())}


def _sized(counts: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    return _flat(counts, generator) | {"image_sizes": torch.tensor([[side(), side()]] * sum(counts))}


def _tiled(counts: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    """A picture of 32 x 32 pixels: the whole and four tiles."""
    sizes = torch.tensor([[32, 32]] * sum(counts))
    return {"pixel_values": _noise(generator, sum(counts), 5, 3, 16, 16), "image_sizes": sizes}


def _by_row(counts: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    pixels = torch.zeros(len(counts), max(counts), 3, side(), side())
    for row, count in enumerate(counts):
        if count:
            pixels[row, :count] = _noise(generator, count, 3, side(), side())
    return {"pixel_values": pixels}


def _patches(counts: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    rows = side() // 4
    pixels = _noise(generator, sum(counts), rows * rows, 3 * 2 * 4 * 4).flatten(0, 1)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, rows, rows]] * sum(counts))}


def _clips(counts: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    """Clips of two times two frames."""
    rows = side() // 4
    grid = torch.tensor([[2, rows, rows]] * sum(counts))
    pixels = _noise(generator, sum(counts), 2 * rows * rows, 3 * 2 * 4 * 4).flatten(0, 1)
    return {"pixel_values_videos": pixels, "video_grid_thw": grid, "second_per_grid_ts": torch.ones(sum(counts))}


def _sounds(counts: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    features = _noise(generator, sum(counts), 8, 32)
    return {"input_features": features, "feature_attention_mask": torch.ones(sum(counts), 32, dtype=torch.long)}


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        make: a random model.
        item: the tokens of one picture, clip or sound.
        pixels: how many items each row has -> what the model takes of them.
        more: token ids -> what else its processor returns.
        slow: whether its tests are slow ones.
    """

    name: str
    make: Callable[[], Any]
    item: tuple[int, ...]
    pixels: Pixels
    more: Callable[[Tensor], dict[str, Tensor]] = field(default=lambda ids_BN: {})
    slow: bool = True

    @cache  # noqa: B019 (families live as long as the tests)
    def model(self) -> Any:
        torch.manual_seed(0)
        model = self.make().eval()
        with torch.no_grad():  # random weights say little: make differences large
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(2.0)
        model.generation_config.pad_token_id = PAD
        return model

    def batch(self, chats: list[list], side: str = "right", seed: int = 0) -> tuple[dict[str, Tensor], TokenRoles]:
        """Inputs and roles of chats (`chat` makes them), padded to the longest."""
        ids, who = zip(*(self._expand(chat) for chat in chats), strict=True)
        length = max(map(len, ids))
        pads = [[PAD] * (length - len(row)) for row in ids]
        ids_BN = torch.tensor([p + r if side == "left" else r + p for r, p in zip(ids, pads, strict=True)])
        none = [[None] * len(p) for p in pads]
        who = [p + r if side == "left" else r + p for r, p in zip(who, none, strict=True)]
        is_token_BN = torch.tensor([[w is not None for w in row] for row in who])
        is_said_BN = torch.tensor([[w == "said" for w in row] for row in who])
        begins_BN = torch.tensor([[w == "begins" for w in row] for row in who])
        modality_BN = torch.zeros_like(ids_BN)
        for index, modality in FEATURES.items():
            modality_BN[ids_BN == index] = int(modality)
        roles = TokenRoles.from_responses(is_said_BN, modality_BN, torch.where(is_token_BN, 0, NONE), begins_BN)
        counts = [sum(part is None for part in chat) for chat in chats]
        generator = torch.Generator().manual_seed(seed)
        pixels = self.pixels(counts, generator) if sum(counts) else {}
        return {"input_ids": ids_BN, "attention_mask": is_token_BN.long(), **self.more(ids_BN), **pixels}, roles

    def _expand(self, chat: list) -> tuple[list[int], list[str]]:
        ids: list[int] = []
        who: list[str] = []
        speaks = False
        for part in chat:
            if part is None:
                first = next(place for place, index in enumerate(self.item) if index in FEATURES)
                ids += self.item
                who += ["begins" if place == first else "given" for place in range(len(self.item))]
                continue
            ids.append(part)
            who.append("said" if speaks else "given")
            speaks = part == ASSISTANT or (speaks and part != END)
        return ids, who


@torch.no_grad()
def logits(model: Any, inputs: dict[str, Tensor], **more: Any) -> Tensor:
    return model(**inputs, **more).logits


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def pattern() -> ReplyPattern:
    """What `ReplyPattern.learn` would learn from a processor of these chats."""
    controls = frozenset({PAD, USER, ASSISTANT, END})
    return ReplyPattern((ASSISTANT,), (END,), False, controls, FEATURES, None)


QUESTION, REPLY = [11, 12, 13, 14], [21, 22, 23]
PROMPT: list = [USER, 15, None, *QUESTION, ASSISTANT]
LONGER = [USER, *range(40, 49), *PROMPT[1:]]
TWO_TURNS: list = [*PROMPT, *REPLY, END, USER, None, 31, 32, ASSISTANT, 41, 42, END]
TWO_PICTURES: list = [USER, None, 16, 17, None, *QUESTION, 18, ASSISTANT]


def llava(text: Any = None, image: int = IMAGE) -> Any:
    vision = t.CLIPVisionConfig(**{**VISION, "patch_size": 8})
    config = t.LlavaConfig(vision_config=vision, text_config=text or t.LlamaConfig(**TEXT), image_token_index=image)
    return t.LlavaForConditionalGeneration(config)


def _llava_next() -> Any:
    vision = t.CLIPVisionConfig(**{**VISION, "patch_size": 8})
    grid = [[16, 32], [32, 16], [32, 32]]
    config = t.LlavaNextConfig(
        vision_config=vision,
        text_config=t.MistralConfig(**{**TEXT, "sliding_window": None}),
        image_token_index=IMAGE,
        image_grid_pinpoints=grid,
    )
    return t.LlavaNextForConditionalGeneration(config)


def _onevision() -> Any:
    vision = t.SiglipVisionConfig(**{**VISION, "patch_size": 8, "vision_use_head": False})
    config = t.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=t.Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
    )
    return t.LlavaOnevisionForConditionalGeneration(config)


_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": OPENS,
    "vision_end_token_id": CLOSES,
}
_PATCHES = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}


def _qwen2_vl() -> Any:
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": TEXT["hidden_size"],
        "num_heads": 4,
        "mlp_ratio": 2,
        **_PATCHES,
    }
    config = t.Qwen2VLConfig(vision_config=vision, text_config={**TEXT, "rope_parameters": _ROPE}, **_TOKENS)
    return t.Qwen2VLForConditionalGeneration(config)


def qwen2_5_vl(vocabulary: int = VOCABULARY, tokens: dict[str, int] = _TOKENS) -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": TEXT["hidden_size"],
    }
    vision |= {**_PATCHES, "window_size": 16, "fullatt_block_indexes": [1]}
    text = {**TEXT, "vocab_size": vocabulary, "rope_parameters": _ROPE}
    config = t.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **tokens)
    return t.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl() -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": TEXT["hidden_size"],
    }
    vision |= {**_PATCHES, "deepstack_visual_indexes": [0], "num_position_embeddings": (side() // 4) ** 2}
    config = t.Qwen3VLConfig(vision_config=vision, text_config={**TEXT, "rope_parameters": _ROPE}, **_TOKENS)
    return t.Qwen3VLForConditionalGeneration(config)


def _mrope_types(ids_BN: Tensor) -> dict[str, Tensor]:
    types = torch.zeros_like(ids_BN)
    types[ids_BN == IMAGE], types[ids_BN == VIDEO] = 1, 2
    return {"mm_token_type_ids": types}


def _smolvlm() -> Any:
    config = t.SmolVLMConfig(
        vision_config=VISION, text_config=t.LlamaConfig(**TEXT), image_token_id=IMAGE, scale_factor=2
    )
    return t.SmolVLMForConditionalGeneration(config)


def idefics3(vocabulary: int = VOCABULARY, image: int = IMAGE) -> Any:
    text = t.LlamaConfig(**{**TEXT, "vocab_size": vocabulary})
    config = t.Idefics3Config(vision_config=VISION, text_config=text, image_token_id=image, scale_factor=2)
    return t.Idefics3ForConditionalGeneration(config)


def _internvl() -> Any:
    vision = {**VISION, "image_size": [side(), side()], "patch_size": [4, 4]}
    config = t.InternVLConfig(
        vision_config=vision,
        text_config=t.Qwen2Config(**TEXT),
        image_token_id=IMAGE,
        image_seq_length=(side() // 8) ** 2,
    )
    return t.InternVLForConditionalGeneration(config)


def _windows() -> dict[str, Any]:
    pairs = TEXT["num_hidden_layers"] // 2
    return {"layer_types": ["sliding_attention", "full_attention"] * pairs, "sliding_window": 8}


def _gemma3() -> Any:
    layers = _windows()
    config = t.Gemma3Config(
        vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=t.Gemma3TextConfig(**TEXT, **layers),
        image_token_index=IMAGE,
        mm_tokens_per_image=(side() // 8) ** 2,
    )
    return t.Gemma3ForConditionalGeneration(config)


def _image_types(ids_BN: Tensor) -> dict[str, Tensor]:
    return {"token_type_ids": (ids_BN == IMAGE).long()}


def paligemma() -> Any:
    config = t.PaliGemmaConfig(
        vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=t.GemmaConfig(**TEXT),
        image_token_index=IMAGE,
        projection_dim=TEXT["hidden_size"],
    )
    return t.PaliGemmaForConditionalGeneration(config)


def _pixtral() -> Any:
    vision = t.PixtralVisionConfig(**{**VISION, "head_dim": 8})
    text = t.MistralConfig(**{**TEXT, "sliding_window": None})
    config = t.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return t.LlavaForConditionalGeneration(config)


def _mistral3() -> Any:
    vision = t.PixtralVisionConfig(**{**VISION, "head_dim": 8})
    text = t.MistralConfig(**{**TEXT, "sliding_window": None})
    config = t.Mistral3Config(vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-1)
    return t.Mistral3ForConditionalGeneration(config)


def _aya_vision() -> Any:
    layers = _windows()
    config = t.AyaVisionConfig(
        vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=t.Cohere2Config(**TEXT, **layers),
        image_token_index=IMAGE,
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
    )
    return t.AyaVisionForConditionalGeneration(config)


def _glm4v() -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": TEXT["hidden_size"],
    }
    vision |= {**_PATCHES, "image_size": side(), "in_channels": 3}
    tokens = {**_TOKENS, "image_start_token_id": OPENS, "image_end_token_id": CLOSES}
    tokens |= {"video_start_token_id": 95, "video_end_token_id": 96}
    del tokens["vision_start_token_id"], tokens["vision_end_token_id"]
    text = {**TEXT, "rope_parameters": _ROPE}
    return t.Glm4vForConditionalGeneration(t.Glm4vConfig(vision_config=vision, text_config=text, **tokens))


def _idefics2() -> Any:
    perceiver = {
        "hidden_size": TEXT["hidden_size"],
        "resampler_n_latents": (side() // 8) ** 2,
        "resampler_depth": 1,
        "resampler_n_heads": 4,
    }
    perceiver |= {"num_key_value_heads": 2, "resampler_head_dim": 8}
    config = t.Idefics2Config(
        vision_config=VISION,
        perceiver_config=perceiver,
        text_config=t.MistralConfig(**{**TEXT, "sliding_window": None}),
        image_token_id=IMAGE,
    )
    return t.Idefics2ForConditionalGeneration(config)


def _qwen2_audio() -> Any:
    audio = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
    audio |= {"num_mel_bins": 8, "max_source_positions": 16}
    config = t.Qwen2AudioConfig(audio_config=audio, text_config=t.Qwen2Config(**TEXT), audio_token_index=AUDIO)
    return t.Qwen2AudioForConditionalGeneration(config)


FAMILIES = (
    Family("llava", llava, (IMAGE,) * 4, _flat, slow=False),
    Family("llava_next", _llava_next, (IMAGE,) * 24, _tiled),
    Family("llava_onevision", _onevision, (IMAGE,) * 24, _tiled),
    Family("qwen2_vl", _qwen2_vl, (OPENS, *(IMAGE,) * 4, CLOSES), _patches, _mrope_types),
    Family("qwen2_5_vl", qwen2_5_vl, (OPENS, *(IMAGE,) * 4, CLOSES), _patches, _mrope_types, slow=False),
    Family("qwen3_vl", _qwen3_vl, (OPENS, *(IMAGE,) * 4, CLOSES), _patches, _mrope_types),
    Family("qwen2_5_vl_video", qwen2_5_vl, (OPENS, *(VIDEO,) * 8, CLOSES), _clips, _mrope_types),
    Family("smolvlm", _smolvlm, (IMAGE,) * 4, _by_row),
    Family("idefics3", idefics3, (IMAGE,) * 4, _by_row),
    Family("idefics2", _idefics2, (OPENS, *(IMAGE,) * 4, OPENS), _by_row),
    Family("internvl", _internvl, (OPENS, *(IMAGE,) * 4, CLOSES), _flat),
    Family("gemma3", _gemma3, (OPENS, *(IMAGE,) * 4, CLOSES), _flat, _image_types, slow=False),
    Family("pixtral", _pixtral, (IMAGE,) * 16, _sized),
    Family("mistral3", _mistral3, (IMAGE, IMAGE, OPENS, IMAGE, IMAGE, CLOSES), _sized),
    Family("aya_vision", _aya_vision, (OPENS, *(IMAGE,) * 4, CLOSES), _flat),
    Family("glm4v", _glm4v, (OPENS, *(IMAGE,) * 4, CLOSES), _patches, _mrope_types),
    Family("qwen2_audio", _qwen2_audio, (AUDIO,) * 8, _sounds),
)
BY_NAME = {family.name: family for family in FAMILIES}
