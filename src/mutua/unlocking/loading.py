"""Another Transformers model, loaded whole and unlocked, for the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from mutua.models import MutuaConfig
from mutua.models.loading import WEIGHTS, expect_whole
from mutua.models.model_folder import ADAPTER, ModelError, blamed_on, expect_finite, find_folder, read_json
from mutua.unlocking.switch import SAVED, unlock


def is_another_model(name_or_path: str | Path | None) -> bool:
    """Whether it is a multimodal model of Transformers that is not Mutua's own."""
    if name_or_path is None or (Path(name_or_path) / ADAPTER).is_file():
        return False
    path = find_folder(name_or_path) / "config.json"
    kind = read_json(path).get("model_type") if path.is_file() else None
    return kind != MutuaConfig.model_type and kind in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES


def load_unlocked(
    name_or_path: str | Path, policy: str | None = None, backend: str = "auto"
) -> tuple[PreTrainedModel, Any]:
    """The model, unlocked and in evaluation mode, and its processor.

    Args:
        policy: None is the one that it was saved unlocked under, else "mma".

    Raises:
        ModelError: it cannot be loaded, or weights are missing.
        ValueError: it cannot be unlocked.
    """
    folder = find_folder(name_or_path)
    config, processor = load_other_processor(folder)
    with blamed_on(folder, "Save or fetch the model again."):
        model, info = AutoModelForMultimodalLM.from_pretrained(folder, config=config, local_files_only=True, **WEIGHTS)
    try:
        expect_whole(info, ())
    except ValueError as error:
        raise ModelError(f"model {folder}: {error}") from None
    expect_finite(f"model {folder}", model)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return unlock(model, processor, saved_policy(config, policy), backend), processor


def load_other_processor(name_or_path: str | Path) -> tuple[Any, Any]:
    """Its configuration and its processor; no weight is read."""
    folder = find_folder(name_or_path)
    with blamed_on(folder, "Its processor or its config.json is damaged, or needs another package."):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    return config, processor


def saved_policy(config: Any, policy: str | None = None) -> str:
    """The policy that was asked for, or that a model was saved unlocked under, or `mma`."""
    return policy or (getattr(config, SAVED, None) or {}).get("policy", "mma")
