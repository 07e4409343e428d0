"""A model to be evaluated: one of ours, or any of Transformers that answers with text to pictures and text."""

from __future__ import annotations

from typing import Any

import torch

from mutua.models.loading import load_model
from mutua.unlocking import is_another_model, load_another


def open_model(name: str | None, policy: str | None, device: torch.device) -> tuple[Any, Any]:
    """A model, ready to answer, and its processor.

    Args:
        name: a folder or hub id; None is the tiny model of the package.
        policy: an attention policy other than the model's own; a model of others is unlocked under it.

    Raises:
        ModelError: no such model, or one that does not answer with text to pictures and text.
        ValueError: it cannot be unlocked.
    """
    if name is None or not is_another_model(name):
        model, processor = load_model(name, policy=policy)
        return model.to(device), processor  # type: ignore[arg-type]
    return load_another(name, policy, device=device)
