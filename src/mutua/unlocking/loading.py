"""Any model, loaded whole: one of ours, or a foreign one of Transformers, unlocked where that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from mutua.models import MutuaConfig
from mutua.models.loading import WEIGHTS, device_for, expect_whole, load_model
from mutua.models.model_folder import ADAPTER, ModelError, blamed_on, expect_finite, find_folder, read_json
from mutua.unlocking.saved import saved_policy
from mutua.unlocking.switch import unlock

# What a loader is told of where a model is found, and its processor beside it.
_WHERE = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")


def open_model(
    name_or_path: str | Path | None,
    policy: str | None = None,
    *,
    backend: str | None = None,
    device: torch.device | str | None = None,
) -> tuple[Any, Any]:
    """A model of anyone's, ready to answer with text to pictures and text, and its processor.

    Args:
        name_or_path: a folder or hub id; None is the tiny model of the package.
        policy: an attention policy other than the model's own; a foreign model is unlocked under it.
        backend: the attention backend; None lets every forward pass choose.
        device: where to put it; None takes a CUDA device if there is one.

    Raises:
        ModelError: as `load_model` of ours, and `load_foreign`.
        ValueError: no such policy, backend or device, or a foreign model that cannot be unlocked.
    """
    if name_or_path is not None and is_foreign(name_or_path):
        return load_foreign(name_or_path, policy, backend or "auto", device)
    place = device_for(device)
    model, processor = load_model(name_or_path, policy=policy, attn_implementation=backend)
    return model.to(place), processor  # type: ignore[arg-type]


def is_foreign(name_or_path: str | Path | None) -> bool:
    """Whether it is a multimodal model of Transformers that is not Mutua's own."""
    if name_or_path is None or (Path(name_or_path) / ADAPTER).is_file():
        return False
    path = find_folder(name_or_path, weights=False) / "config.json"
    kind = read_json(path).get("model_type") if path.is_file() else None
    return kind != MutuaConfig.model_type and kind in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES


def load_foreign(
    name_or_path: str | Path,
    policy: str | None = None,
    backend: str = "auto",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[PreTrainedModel, Any]:
    """The model in evaluation mode, and its processor.

    Args:
        policy: unlocks it under this one. None leaves it as it was made, but one that was saved unlocked is unlocked
            under the policy of then.
        device: where to put it; None takes a CUDA device if there is one.
        dtype: of the weights; None is the one that it was saved with.

    Raises:
        ModelError: it cannot be loaded, weights are missing, or it does not answer with text to pictures and text.
        ValueError: it cannot be unlocked, or there is no such device.
    """
    place = device_for(device)
    folder = find_folder(name_or_path)
    config, processor = load_foreign_processor(folder)
    if getattr(processor, "chat_template", None) is None:
        raise ModelError(f"{name_or_path}: its processor has no chat template, so it is not known how to ask it.")
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:  # batches need one; behind the end of a reply nothing is read
        tokenizer.pad_token = tokenizer.eos_token
    options = WEIGHTS if dtype is None else {**WEIGHTS, "dtype": dtype}
    with blamed_on(folder, "Save or fetch the model again."):
        model, info = AutoModelForMultimodalLM.from_pretrained(folder, config=config, local_files_only=True, **options)
    try:
        expect_whole(info, ())  # else it would answer with random weights
    except ValueError as error:
        raise ModelError(f"model {folder}: {error}") from None
    expect_finite(f"model {folder}", model)
    model = model.to(place).eval()  # type: ignore[arg-type]
    policy = policy or saved_policy(config)
    return (model if policy is None else unlock(model, processor, policy, backend)), processor


def load_foreign_processor(name_or_path: str | Path) -> tuple[Any, Any]:
    """Its configuration and its processor; no weight is read, nor fetched."""
    folder = find_folder(name_or_path, weights=False)
    with blamed_on(folder, "Its processor or its config.json is damaged, or needs another package."):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    return config, processor


class UnlockedModel:
    """The class that a saved config names for `trust_remote_code=True`: no model itself, but gives one of Transformers'
    own, unlocked as it was saved."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *args: Any, config: Any, **kwargs: Any) -> Any:
        """As that of the model's own class."""
        processor = AutoProcessor.from_pretrained(name_or_path, **{key: kwargs[key] for key in _WHERE if key in kwargs})
        own = MODEL_FOR_MULTIMODAL_LM_MAPPING[type(config)]
        loaded = own.from_pretrained(name_or_path, *args, config=config, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        unlock(model, processor, saved_policy(config) or "mma")
        return loaded

    @classmethod
    def register_for_auto_class(cls, auto_class: Any) -> None:
        """The Auto classes say so of a class from a folder, for `save_pretrained` to copy its code: there is none."""
