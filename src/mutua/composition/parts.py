"""The parts of a model from wherever they are: a hub id, a local folder, a GGUF file, or a bare config (fresh weights).

Every weight of a part must be in its checkpoint: what is missing would be random, without a word.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.utils import CONFIG_NAME, cached_file

from mutua.models.configuration import MutuaConfig
from mutua.models.loading import WEIGHTS, expect_whole
from mutua.models.model_folder import (
    ModelError,
    error_line,
    expect_finite,
    expect_layers,
    expect_sizes,
    may_be_hub_id,
    read_json,
    read_shapes,
    weight_files,
)
from mutua.models.modeling import MutuaModel
from mutua.models.vision import vision_encoder

Part: TypeAlias = str | Path | PreTrainedConfig


class ComposeError(ValueError):
    """A model cannot be put together; the message names the part, the reason and the remedy."""


def read_config(what: str, part: Part) -> Any:
    """The config of a part, whole: the one that is given, or what its place says; no weight is read."""
    return part if isinstance(part, PreTrainedConfig) else _read(what, part, AutoConfig.from_pretrained)


def vision_config(whole: Any) -> Any:
    """The config of the vision encoder in that of a model, or the one that it is; ValueError for an unknown type."""
    config = deepcopy(getattr(whole, "vision_config", None) or whole)
    vision_encoder(config)
    if getattr(config, "vision_use_head", False):
        config.vision_use_head = False  # pools a picture into one vector, which nothing here uses
    return config


def load_vision(part: Part, dtype: torch.dtype) -> Any:
    """The vision encoder; of a checkpoint that holds more (SigLIP, CLIP, one of Mutua's own) the vision part only."""
    whole = read_config("vision", part)
    config = vision_config(whole)
    if isinstance(part, PreTrainedConfig):
        return AutoModel.from_config(config, dtype=dtype)

    def load(name: str, **options: Any) -> Any:
        _expect_files(name)
        if isinstance(whole, MutuaConfig):
            model, info = MutuaModel.from_pretrained(name, dtype=dtype, **WEIGHTS, **options)
            return model.vision_tower, info
        return AutoModel.from_pretrained(name, config=config, dtype=dtype, **WEIGHTS, **options)

    model, info = _read("vision", part, load)
    own = {name for name, _ in model.named_children()} - {"head"}
    extra = [key for key in info["unexpected_keys"] if key.removeprefix("vision_model.").split(".")[0] in own]
    _expect_whole("vision", part, model, info, extra)
    return model


def read_image_processor(part: Part) -> dict[str, Any]:
    """What the checkpoint says of its pictures; empty if it says nothing."""
    if isinstance(part, PreTrainedConfig):
        return {}

    def load(name: str, trust_remote_code: bool, **options: Any) -> dict[str, Any]:
        for file in ("processor_config.json", "preprocessor_config.json"):
            # None if the checkpoint has no such file; an error if that cannot be found out.
            path = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **options)
            content = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
            content = content.get("image_processor", {}) if file == "processor_config.json" else content
            if content:
                return content
        return {}

    return _read("vision", part, load)


def bare_language(config: Any) -> Any:
    """A copy to build from: the padding token that a family's config begins with may be beyond a small table."""
    config = deepcopy(config)
    text = config.get_text_config()
    pad, rows = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if pad is not None and rows is not None and pad >= rows:
        text.pad_token_id = None
    return config


def load_language(part: Part, dtype: torch.dtype | None) -> Any:
    """The language model with its head, as `AutoModelForCausalLM` gives it; dtype None is the checkpoint's own."""
    if isinstance(part, PreTrainedConfig):
        return AutoModelForCausalLM.from_config(bare_language(part), dtype=dtype or torch.float32)

    def load(name: str, **options: Any) -> Any:
        if "gguf_file" in options:
            wanted = dtype or torch.float32
            return AutoModelForCausalLM.from_pretrained(name, dtype=wanted, output_loading_info=True, **options)
        _expect_files(name)
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype or "auto", **WEIGHTS, **options)

    model, info = _read("language", part, load)
    _expect_whole("language", part, model, info, info["unexpected_keys"])
    if getattr(model, "hf_quantizer", None) is not None:
        if getattr(model.hf_quantizer.quantization_config, "quant_method", None) != "gguf":
            raise ComposeError(f"language {part}: its weights are quantised; take the checkpoint before quantisation.")
        # The weights of a GGUF file are dequantised by now, and saved as any others.
        del model.hf_quantizer
        model.config.__dict__.pop("quantization_config", None)
    return model


def load_tokenizer(part: Part, given: Any) -> Any:
    """The given tokenizer (or the one in that place), else the language model's own."""
    if given is not None and not isinstance(given, (str, Path)):
        return given
    source = given or part
    if isinstance(source, PreTrainedConfig):
        raise ComposeError(
            "language is a bare config, which has no tokenizer: give tokenizer= (a tokenizer, a folder or a hub id)."
        )
    try:
        return _read("tokenizer" if given else "language", source, AutoTokenizer.from_pretrained)
    except ComposeError as error:
        raise ComposeError(
            f"{error}. Its tokenizer is missing or damaged: fetch it again, or give another as tokenizer."
        ) from error


def _read(what: str, part: str | Path, load: Callable[..., Any]) -> Any:
    """`load(name, **options)` for a folder, a GGUF file or a hub id; every failure names the part."""
    path = Path(part).expanduser()
    options: dict[str, Any] = {"trust_remote_code": False}
    if path.suffix == ".gguf":
        if what == "vision":
            raise ComposeError(f"vision {part}: a vision encoder cannot be read from a GGUF file; give its folder.")
        if not path.is_file():
            raise ComposeError(f"{what} {part}: no such file")
        _expect_gguf()
        name, options["gguf_file"] = str(path.parent), path.name
    elif path.is_dir():
        name, options["local_files_only"] = str(path), True
    elif may_be_hub_id(str(part), bare=True):
        name = str(part)
    else:
        raise ComposeError(
            f"{what} {part}: no such folder, and no hub id: that is owner/name, with no folder of the owner's name here"
        )
    try:
        return load(name, **options)
    except ModelError as error:
        raise ComposeError(f"{what}: {error}") from error
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # whatever a library says of a damaged file or of sizes that do not go together
        raise ComposeError(
            f"{what} {part}: cannot be loaded from a folder here or from the hub: {error_line(error)}"
        ) from error


def _expect_files(name: str) -> None:
    """Raises ModelError where a folder's config or the headers of its weights tell that it is damaged."""
    folder = Path(name)
    if not folder.is_dir():
        return
    config = read_json(folder / CONFIG_NAME)
    for key, section in {"": config, **config}.items():
        if isinstance(section, dict):
            expect_sizes(f"{folder / CONFIG_NAME}: {key and key + '.'}", section)
    if "quantization_config" not in config:  # their numbers may be of any kind
        expect_layers(folder / CONFIG_NAME, len(read_shapes(weight_files(folder))))


def _expect_gguf() -> None:
    if not all(map(find_spec, ("accelerate", "gguf"))):
        raise ImportError('GGUF files need two packages more: pip install "mutua[gguf]"')


def _expect_whole(what: str, part: str | Path, model: nn.Module, info: dict[str, Any], extra: Any) -> None:
    try:
        expect_whole(info, extra)
    except ValueError as error:
        raise ComposeError(f"{what} {part}: {error}") from None
    try:
        expect_finite(f"{what} {part}", model)
    except ModelError as error:
        raise ComposeError(str(error)) from None
