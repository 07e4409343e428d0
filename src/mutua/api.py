"""The two calls that most people need: load a model, ask it about a picture. The rest is Transformers' own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from mutua.chat.messages import is_text
from mutua.images import open_list
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor
from mutua.models.loading import device_for, load_model, load_processor
from mutua.models.model_folder import PACKAGED, ModelError
from mutua.respond import Answer, respond

__all__ = ["PACKAGED", "Answer", "ModelError", "ask", "conversation", "load", "load_processor", "reply"]


def load(
    name_or_path: str | Path | None = None,
    *,
    policy: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """A model, ready to answer, and its processor.

    Args:
        name_or_path: a folder, or a model on the Hugging Face hub; None is the tiny model of the package. A folder of
            PEFT's that holds adapters gives the model that they name as their base, with the adapters merged into it.
        policy: an attention policy other than the one the model was saved with.
        device: where to put it; None takes a CUDA device if there is one.
        dtype: of the weights, e.g. torch.bfloat16 or "bfloat16"; None is the one the model was saved with.
        attn_implementation: the attention backend; None lets every forward pass choose.

    Raises:
        ModelError: no such model, not one of Mutua's, or a folder in which something is missing or does not fit.
        ValueError: no such policy, dtype, backend or device.
        ImportError: adapters, and PEFT is not installed.
    """
    place = device_for(device)
    model, processor = load_model(name_or_path, policy=policy, dtype=dtype, attn_implementation=attn_implementation)
    return model.to(place), processor  # type: ignore[arg-type]


_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")  # endings that no question has


def conversation(images: Any, question: str) -> list[dict[str, Any]]:
    """One user message: the pictures in order, then the question, in Transformers' chat format.

    Args:
        images: a picture as `mutua.images.open_image` takes it, or a list of them.

    Raises:
        ImageError: a picture cannot be used.
        ValueError: the question is empty, no text, or the name of a picture.
    """
    if not isinstance(question, str):
        raise ValueError(
            f"the question is no text, but of type {type(question).__name__}: pictures come first, then the question."
        )
    if not question.strip():
        raise ValueError("the question is empty: ask something, e.g. 'what colour is the circle?'")
    if not is_text(question):
        raise ValueError(f"the question {question!r} is no valid text: type it in UTF-8")
    if os.path.isfile(question) or (question.lower().endswith(_PICTURES) and not any(map(str.isspace, question))):
        raise ValueError(
            f"the last word must be the question, but {question!r} is the name of a file: add a question in quotes."
        )
    pictures = open_list(images if isinstance(images, (list, tuple)) else [images])
    parts: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def reply(
    model: MutuaForConditionalGeneration, processor: MutuaProcessor, messages: list[dict[str, Any]], **generate: Any
) -> Answer:
    """The model's next message in a conversation. Keyword arguments go to `generate`."""
    return respond(model, processor, [messages], **{"max_new_tokens": 64, **generate})[0]


def ask(
    model: MutuaForConditionalGeneration,
    processor: MutuaProcessor,
    images: Any,
    question: str,
    **generate: Any,
) -> str:
    """The answer to a question about one picture or several.

    Args:
        images: a picture as `mutua.images.open_image` takes it, such as a path or a PIL image, or a list of them; an
            empty list asks without a picture.
        question: plain text.
        **generate: for `generate`, e.g. `max_new_tokens=256` or `streamer=...`; greedy with 64 tokens by default.
    """
    return reply(model, processor, conversation(images, question), **generate).text
