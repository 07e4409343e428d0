"""A model to be evaluated: one of ours, or any of Transformers that answers with text to pictures and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from mutua.models import MutuaConfig
from mutua.models.loading import expect_whole, load_model
from mutua.models.model_folder import ADAPTER, ModelError, first_line


def open_model(name: str | None, policy: str | None, device: torch.device) -> tuple[Any, Any]:
    """A model, ready to answer, and its processor.

    Args:
        name: a folder or hub id; None is the tiny model of the package.
        policy: an attention policy other than the model's own; models of others have none.

    Raises:
        ModelError: no such model, or one that does not answer with text to pictures and text.
        ValueError: a policy for a model that has none.
    """
    if name is None or _is_ours(name):
        model, processor = load_model(name, policy=policy)
        return model.to(device), processor  # type: ignore[arg-type]
    if policy is not None:
        raise ValueError(f"--policy {policy}: {name} is no Mutua model, and has the attention that it was made with.")
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(name, dtype="auto", output_loading_info=True)
        processor = AutoProcessor.from_pretrained(name)
        expect_whole(info, ())  # else it would answer with random weights
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{name}: Transformers opens no model and processor for pictures and text there: {first_line(error)}"
        ) from error
    if getattr(processor, "chat_template", None) is None:
        raise ModelError(f"{name}: its processor has no chat template, so it is not known how to ask it.")
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:  # batches need one; behind the end of a reply nothing is read
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval().to(device), processor


def _is_ours(name: str) -> bool:
    """Whether `load_model` is to open it; also where it has something to say about what is wrong."""
    folder = Path(name)
    if (folder / ADAPTER).is_file():
        return True
    if folder.is_dir() and not (folder / "config.json").is_file():
        return True
    try:
        return bool(AutoConfig.from_pretrained(name).model_type == MutuaConfig.model_type)
    except Exception:  # damaged, not there, of a type that Transformers does not know: our loader says so
        return True
