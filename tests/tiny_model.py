"""A tiny random model that every test can afford, and conversations to feed it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mutua.composition.tiny import CHAT_TEMPLATE, tiny_config, train_tokenizer
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor
from mutua.roles import TokenRoles

CORPUS = ["what colour is the circle? red", "is there a small blue square? yes no", "describe the picture."]


def picture(seed: int, size: int = 32) -> Image.Image:
    """Noise: every picture differs from every other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def user(*parts: str | Image.Image) -> dict:
    """A user message of texts and pictures, in order."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def make_model(
    policy: str = "mma", connector: str = "mlp", grid: int = 4, **text: object
) -> MutuaForConditionalGeneration:
    """Random weights, large enough that a wrong mask moves the logits by more than any tolerance.

    `grid` is the number of patches a side; with the connector "mlp" an image has grid * grid tokens.
    """
    torch.manual_seed(0)
    tokenizer = train_tokenizer(CORPUS, vocab_size=320)
    config = tiny_config(
        tokenizer,
        vision={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        | {"image_size": 8 * grid, "patch_size": 8},
        text={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"num_key_value_heads": 2, "initializer_range": 0.3, **text},
        attention_policy=policy,
        connector=connector,
        resampler_latents=5,
        resampler_depth=2,
        resampler_heads=2,
        resampler_head_dim=16,
    )
    return MutuaForConditionalGeneration(config).eval()


def make_processor(model: MutuaForConditionalGeneration) -> MutuaProcessor:
    return MutuaProcessor.for_config(model.config, train_tokenizer(CORPUS, vocab_size=320), CHAT_TEMPLATE)


def save_model(folder: Path, model: MutuaForConditionalGeneration | None = None, **options: object) -> Path:
    """A model, that of `make_model()` unless one is given, and its processor, as a folder to open; returns the folder.

    `options` are those of the model's `save_pretrained`.
    """
    model = model or make_model()
    model.save_pretrained(folder, **options)
    make_processor(model).save_pretrained(folder)
    return folder


def assert_checkpointing_changes_no_gradient(model: MutuaForConditionalGeneration, inputs: dict) -> None:
    """One training step's gradients with and without gradient checkpointing."""
    model.train()
    labels = torch.where(TokenRoles.from_codes(inputs["token_type_ids"]).is_response_BN, inputs["input_ids"], -100)
    gradients = []
    for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        enable()
        model.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, atol=1e-6, rtol=1e-5)
