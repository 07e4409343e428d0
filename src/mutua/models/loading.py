"""One way to load a model of ours, whoever asks: `mutua.load`, training, evaluation."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils import GENERATION_CONFIG_NAME

from mutua.attention import get_policy
from mutua.attention.backends import resolve
from mutua.models.configuration import MutuaConfig
from mutua.models.model_folder import (
    ADAPTER,
    ADAPTER_POLICY,
    ModelError,
    blamed_on,
    expect_finite,
    expect_layers,
    expect_same,
    expect_sizes,
    expect_weights,
    find_folder,
    first_line,
    listed,
    read_json,
    read_shapes,
    weight_file,
    weight_files,
)
from mutua.models.modeling import MutuaForConditionalGeneration
from mutua.models.processing import MutuaProcessor
from mutua.models.vision import image_side

# Never a pickle; and what does not fit is refused by name, in `expect_whole`.
WEIGHTS: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}

_PROCESSOR = ("processor_config.json", "tokenizer_config.json", "tokenizer.json")
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_LARGEST_RESIZE = 8  # times the side of what the model takes
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


def device_for(wanted: torch.device | str | None) -> torch.device | str:
    """A device that can be used, tried before a large model is read for it; None takes a CUDA device if there is one.

    Raises:
        ValueError: it cannot be used.
    """
    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {str(device)!r} that can be used: {first_line(error)}.") from error
    return device


def load_model(
    name_or_path: str | Path | None = None,
    *,
    policy: str | None = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """A model on the CPU, in evaluation mode, and its processor.

    Args:
        name_or_path: a folder, or a model on the Hugging Face hub; None is the tiny model of the package. A folder of
            PEFT's that holds adapters gives the model that they name as their base, with the adapters merged into it.
        policy: an attention policy other than the one the model was saved with.
        dtype: of the weights, e.g. torch.bfloat16 or "bfloat16"; None is the one the model was saved with.
        attn_implementation: the attention backend; None lets every forward pass choose.

    Raises:
        ModelError: no such model, not one of Mutua's, or a folder in which something is missing or does not fit.
        ValueError: no such policy, dtype or backend.
        ImportError: adapters, and PEFT is not installed.
    """
    wanted = None if dtype is None else _float_type(dtype)
    if attn_implementation is not None:
        resolve(attn_implementation)
    if isinstance(name_or_path, (str, Path)) and os.path.isfile(os.path.join(name_or_path, ADAPTER)):
        return _with_adapter(Path(name_or_path), policy, wanted, attn_implementation)
    folder = find_folder(name_or_path)
    config, processor = check_folder(folder, policy=policy)
    options: dict[str, Any] = {} if wanted is None else {"dtype": wanted}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    with blamed_on(folder, "Save or fetch the model again."):
        model, info = MutuaForConditionalGeneration.from_pretrained(
            folder, config=config, local_files_only=True, **WEIGHTS, **options
        )
    try:
        expect_whole(info, info["unexpected_keys"])
    except ValueError as error:
        raise ModelError(f"model {folder}: {error}") from None
    expect_finite(f"model {folder}", model)
    _expect_ids(folder / GENERATION_CONFIG_NAME, model)
    return model.eval(), processor


def check_folder(folder: Path, *, policy: str | None = None) -> tuple[MutuaConfig, MutuaProcessor]:
    """As `load_processor`, of a folder whose weights are all there and fit, by the headers of their files.

    Raises:
        ModelError: as `load_model`, but for what only the numbers show.
    """
    config, processor = load_processor(folder, policy=policy)
    if not hasattr(config, "quantization_config"):
        shapes = read_shapes(weight_files(folder))
        expect_layers(folder / "config.json", len(shapes))
        with _blamed_on_config(folder), torch.device("meta"):
            empty = MutuaForConditionalGeneration(config)
        expect_weights(folder, empty, shapes)
    return config, processor


def load_processor(
    name_or_path: str | Path | None = None, *, policy: str | None = None
) -> tuple[MutuaConfig, MutuaProcessor]:
    """As `load_model`, with the configuration in place of the model: no weight is read, nor fetched."""
    folder = find_folder(name_or_path, weights=False)
    config = _load_config(folder)
    if policy is not None:
        config.attention_policy = get_policy(policy).name
    for name in _PROCESSOR:
        read_json(folder / name)
    with _blamed_on_processor(folder):
        processor = MutuaProcessor.from_pretrained(folder, local_files_only=True)
    _expect_agreement(folder, config, processor)
    _expect_inputs(folder, config, processor)
    return config, processor


def _blamed_on_config(folder: Path) -> AbstractContextManager[None]:
    return blamed_on(folder / "config.json", "No model can be built from that: put it right.")


def _blamed_on_processor(folder: Path) -> AbstractContextManager[None]:
    files = ", ".join((*_PROCESSOR, "chat_template.jinja"))
    return blamed_on(folder, f"Its processor ({files}) is damaged: save or fetch it again.")


def _load_config(folder: Path) -> MutuaConfig:
    path = folder / "config.json"
    content = read_json(path)
    if content.get("model_type") != MutuaConfig.model_type:
        raise ModelError(
            f"{folder} is not a Mutua model: its config.json says model_type {content.get('model_type')!r}, not "
            f"{MutuaConfig.model_type!r}. (Other models of Transformers take a policy by mutua.unlock: docs/unlock.md.)"
        )
    for key in ("text_config", "vision_config"):
        if not isinstance(content.get(key), dict) or "model_type" not in content[key]:
            raise ModelError(f"{path}: {key} is missing, or has no model_type: save or fetch it again.")
    expect_sizes(f"{path}: ", content)
    for key in ("text_config", "vision_config"):
        expect_sizes(f"{path}: {key}.", content[key])
    if (folder / GENERATION_CONFIG_NAME).is_file():
        read_json(folder / GENERATION_CONFIG_NAME)  # Transformers would go on without it
    with _blamed_on_config(folder):
        config = MutuaConfig.from_pretrained(folder, local_files_only=True)
        quantization = getattr(config, "quantization_config", None)
        if quantization is not None and not AutoHfQuantizer.supports_quant_method(quantization):
            raise ValueError(f"no quantization is known as {quantization['quant_method']!r}")
    return config


def _expect_agreement(folder: Path, config: MutuaConfig, processor: MutuaProcessor) -> None:
    """Raises ModelError where the processor prepares inputs of another model."""
    with _blamed_on_config(folder):
        image_tokens = config.num_image_tokens
    for what, given, expected in (
        ("num_image_tokens", processor.num_image_tokens, image_tokens),
        ("the id of the image placeholder", processor.image_token_id, config.image_token_id),
    ):
        if given != expected:
            raise ModelError(
                f"model {folder}: {what} is {given!r} by its processor and {expected!r} by its config.json: they "
                "belong to two models; put one right."
            )
    rows, largest = config.text_config.vocab_size, max(processor.tokenizer.get_vocab().values())
    if largest >= rows:
        raise ModelError(
            f"model {folder}: its tokenizer has ids up to {largest}, but text_config.vocab_size is {rows}: they belong "
            "to two models; put one right."
        )


def _expect_inputs(folder: Path, config: MutuaConfig, processor: MutuaProcessor) -> None:
    """Raises ModelError where the processor cannot prepare a picture and a text, or not as the model takes them."""
    side = image_side(config.vision_config, config.image_size)
    size = dict(processor.image_processor.size)
    if max(size.values(), default=0) > _LARGEST_RESIZE * side:  # told before memory is taken
        raise ModelError(
            f"{folder / _PROCESSOR[0]}: size is {size}, but the model takes {side} x {side} pixels: put it right."
        )
    with _blamed_on_processor(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a division by 0, which is told here
        inputs = processor(
            images=Image.new("RGB", (3, 2)), text=processor.image_token, padding=True, return_tensors="pt"
        )
    pixels = inputs["pixel_values"]
    if pixels.shape != (1, 3, side, side):
        raise ModelError(
            f"{folder / _PROCESSOR[0]}: of a picture, its image_processor makes {tuple(pixels.shape)}, but the model "
            f"takes (1, 3, {side}, {side}): put size, do_resize or do_center_crop right."
        )
    if not bool(torch.isfinite(pixels).all()):
        raise ModelError(
            f"{folder / _PROCESSOR[0]}: its image_processor makes numbers that are not finite (nan or inf): put "
            "image_mean, image_std and rescale_factor right."
        )


def _expect_ids(path: Path, model: MutuaForConditionalGeneration) -> None:
    """Raises ModelError where no token, or one that there is not, ends a reply: none would ever end."""
    rows = model.config.text_config.vocab_size
    given = model.generation_config.eos_token_id
    tokens = given if isinstance(given, list) else [given]
    if not tokens or not all(isinstance(token, int) and 0 <= token < rows for token in tokens):
        raise ModelError(f"{path}: eos_token_id, which ends a reply, is {given!r}: give ids from 0 to {rows - 1}.")


def _with_adapter(
    folder: Path, policy: str | None, dtype: torch.dtype | None, attn_implementation: str | None
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise ImportError(f'{folder} holds adapters, which need PEFT: pip install "mutua[lora]"') from error
    base = read_json(folder / ADAPTER).get("base_model_name_or_path")
    if policy is None and (folder / ADAPTER_POLICY).is_file():  # that of the base may be another
        policy = read_json(folder / ADAPTER_POLICY).get("attention_policy")
    if not base:
        merged = f", or load {folder.parent / 'model'}" if (folder.parent / "model" / "config.json").is_file() else ""
        raise ModelError(
            f"{folder / ADAPTER} names no base_model_name_or_path, the model that its adapters were trained in: write "
            f"it there{merged}."
        )
    shapes = read_shapes([weight_file(folder, _ADAPTER_WEIGHTS)])  # PEFT would take a pickle, too, or ask the hub
    try:
        if isinstance(base, str) and (Path(base) / ADAPTER).is_file():
            raise ModelError("that is a folder of adapters, too: name the whole model that they were trained in.")
        model, processor = load_model(base, policy=policy, dtype=dtype, attn_implementation=attn_implementation)
    except ModelError as error:
        raise ModelError(f"{folder}: its adapters were trained in {base}: {error}") from None
    with blamed_on(folder, "The adapters do not fit their base model, or are damaged."), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # refused below
        adapted = PeftModel.from_pretrained(model, str(folder))
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    # An adapter that lacks weights would leave its base as it is, without a word.
    expect_same(str(folder), {name: list(weight.shape) for name, weight in expected.items()}, shapes)
    model = adapted.merge_and_unload()
    expect_finite(str(folder), model)
    return model.eval(), processor


def _float_type(dtype: torch.dtype | str) -> torch.dtype:
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in _DTYPES.values():
        raise ValueError(f"no dtype {dtype!r} for weights: use {', '.join(_DTYPES)}.")
    return found


def copy_weights(model: nn.Module) -> None:
    """Copies the weights out of mapped files. There they are aligned differently from fresh ones, and fast sums depend
    on alignment: with copies, a resumed run computes exactly what the run before it would have."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def expect_whole(info: Mapping[str, Any], extra: Iterable[str]) -> None:
    """Every weight is in the checkpoint (one that is missing would be random, without a word), and has a place.

    Args:
        info: what Transformers gives with `output_loading_info=True`.
        extra: weights of the checkpoint that the model should have had a place for.

    Raises:
        ValueError: "the checkpoint lacks ...".
    """
    for problem, keys in (
        ("lacks", info["missing_keys"]),
        ("has other shapes for", info["mismatched_keys"]),
        ("has weights that its config has no place for:", extra),
    ):
        if keys:
            raise ValueError(listed(problem, [key if isinstance(key, str) else key[0] for key in keys]))
