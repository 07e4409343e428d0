"""Models by name, put together from published parts by `mutua.compose`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mutua.composition.tokenizer import CHATML


@dataclass(frozen=True)
class Preset:
    """Parts by their hub ids, and how they are connected. The connector's weights are fresh."""

    summary: str
    vision: str
    language: str
    connector: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None


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
        chat_template=CHATML,
    ),
    "qwen3-2b": Preset(
        "SigLIP 2 and Qwen3-1.7B, 2.2 billion weights",
        vision="google/siglip2-so400m-patch14-384",
        language="Qwen/Qwen3-1.7B",
        connector={"type": "resampler", "latents": 144},
        chat_template=CHATML,
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
