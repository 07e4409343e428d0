"""The two calls that most people need: load a model, ask it about a picture. The rest is Transformers' own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from mutua.attention import get_policy
from mutua.composition.parts import first_line
from mutua.images import open_image
from mutua.models import MutuaConfig, MutuaForConditionalGeneration, MutuaProcessor

PACKAGED = Path(__file__).parent / "packaged"
"""The tiny model that comes with the package; its README.md says what it was trained on."""


class ModelError(ValueError):
    """A model that cannot be loaded; the message names it and the remedy."""


def load(
    name_or_path: str | Path | None = None, *, policy: str | None = None, device: str | None = None
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """A model, ready to answer, and its processor.

    Args:
        name_or_path: a folder, or a model on the Hugging Face hub; None is the tiny model of the package.
        policy: an attention policy other than the one the model was saved with.
        device: where to put it; None takes a CUDA device if there is one.

    Raises:
        ModelError: no such model, or not one of Mutua's.
        ValueError: no such policy.
    """
    config, processor = load_processor(name_or_path, policy=policy)
    with _told(name_or_path):
        model = MutuaForConditionalGeneration.from_pretrained(_name(name_or_path), config=config)
    model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return model, processor


def load_processor(
    name_or_path: str | Path | None = None, *, policy: str | None = None
) -> tuple[MutuaConfig, MutuaProcessor]:
    """As `load`, with the configuration in place of the model: no weight is read."""
    name = _name(name_or_path)
    with _told(name_or_path):
        config = MutuaConfig.from_pretrained(name)
        if policy is not None:
            config.attention_policy = get_policy(policy).name
        if config.model_type != MutuaConfig.model_type or config.text_config is None:
            raise ModelError(f"{name} is not a Mutua model: its config.json does not say model_type 'mutua'.")
        return config, MutuaProcessor.from_pretrained(name)


def _name(name_or_path: str | Path | None) -> str:
    return str(PACKAGED if name_or_path is None else name_or_path)


@contextmanager
def _told(name_or_path: str | Path | None) -> Iterator[None]:
    """A model that is not there or cannot be read becomes a ModelError."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"no model at {_name(name_or_path)!r}: give a folder that `save_pretrained` wrote, or a hub id that this "
            f"machine can reach ({first_line(error)})"
        ) from error


def conversation(images: Sequence[str | Path | Image], question: str) -> list[dict[str, Any]]:
    """One user message: the pictures in order, then the question, in Transformers' chat format.

    Raises:
        ImageError: a picture cannot be opened.
        ValueError: the question is empty.
    """
    if not question.strip():
        raise ValueError("the question is empty: ask something, e.g. 'what colour is the circle?'")
    if any("\ud800" <= letter <= "\udfff" for letter in question):  # so Python holds a terminal's undecodable bytes
        raise ValueError(f"the question {question!r} is no valid text: type it in UTF-8")
    pictures = [image if isinstance(image, Image) else open_image(image) for image in images]
    parts: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def reply(
    model: MutuaForConditionalGeneration, processor: MutuaProcessor, messages: list[dict[str, Any]], **generate: Any
) -> str:
    """The model's next message in a conversation. Keyword arguments go to `generate`."""
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device, dtype=model.dtype)
    tokens = model.generate(**inputs, **{"max_new_tokens": 64, "do_sample": False, **generate})
    return processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def ask(
    model: MutuaForConditionalGeneration,
    processor: MutuaProcessor,
    images: str | Path | Image | Sequence[str | Path | Image],
    question: str,
    **generate: Any,
) -> str:
    """The answer to a question about one picture or several.

    Args:
        images: paths or PIL images; an empty list asks without a picture.
        question: plain text.
        **generate: for `generate`, e.g. `max_new_tokens=256` or `streamer=...`; greedy with 64 tokens by default.
    """
    pictures = [images] if isinstance(images, (str, Path, Image)) else images
    return reply(model, processor, conversation(pictures, question), **generate)
