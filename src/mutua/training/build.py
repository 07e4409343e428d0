"""From a recipe's `model` section to a model and its processor, and which of its weights stay frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig

from mutua.composition import compose
from mutua.composition.tiny import build_processor, tiny_config, train_tokenizer
from mutua.data.mixture import Mixture
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor
from mutua.models.connectors import connector_keys
from mutua.training.export import no_bars
from mutua.training.lora import Adapters, is_lora
from mutua.training.recipe import ModelSettings, Recipe
from mutua.training.samples import ALWAYS_TOLERATED, SAMPLE_ERRORS


def model_to_train(
    recipe: Recipe, mixture: Mixture, newest: Path | None
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor, Adapters | None]:
    """The model where the recipe starts, or as the checkpoint `newest` has it; what the recipe says is frozen.

    Raises:
        ValueError, OSError: a setting that cannot work, with its place.
        CheckpointError: the checkpoint goes with another model than the one that the recipe starts from.
    """
    lora = recipe.train.lora
    if newest is None or lora is not None:  # a checkpoint of a run with adapters has no more than what is trained
        model, processor = build_model(recipe.model, mixture, recipe.data.tokenizer_texts)
    else:
        model, processor = load_model(newest)
    freeze(model, recipe.train.freeze, may_freeze_all=lora is not None)
    if lora is None:
        return model, processor, None
    adapters = Adapters(model, lora)
    if newest is not None:
        adapters.load(newest)
    return model, processor, adapters


def build_model(
    settings: ModelSettings, mixture: Mixture, tokenizer_texts: int
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """The tiny preset with fresh weights and a tokenizer of its own, the model in a folder, or one put together."""
    if settings.path is not None:
        model, processor = load_model(settings.path)
        if settings.attention_policy is not None:
            model.config.attention_policy = settings.attention_policy
        return model, processor
    if settings.preset != "tiny":
        return compose_model(settings)
    tokenizer = train_tokenizer(islice(_texts(mixture, tokenizer_texts), tokenizer_texts))
    overrides = {} if settings.connector is None else connector_keys(settings.connector)
    if settings.attention_policy is not None:
        overrides["attention_policy"] = settings.attention_policy
    sizes = settings.vision if isinstance(settings.vision, dict) else {}
    config = tiny_config(tokenizer, vision=sizes, text=settings.text, **overrides)
    return MutuaForConditionalGeneration(config), build_processor(tokenizer, config)


def load_model(folder: Path) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """What `save_pretrained` wrote into `folder`, with fp32 weights to train."""
    if not (folder / "config.json").is_file():
        hint = "; a checkpoint of a run with train.lora is none, its finished model is" if is_lora(folder) else ""
        raise FileNotFoundError(
            f"model.path {folder}: no model there (no config.json){hint}; give a folder that holds one"
        )
    with no_bars():
        model = MutuaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    _own_memory(model)
    return model, MutuaProcessor.from_pretrained(folder, local_files_only=True)


def compose_model(settings: ModelSettings) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """What `mutua.compose` puts together of the parts that the recipe names, with fp32 weights to train."""
    vision, language = (
        AutoConfig.for_model(**part) if isinstance(part, dict) else part
        for part in (settings.vision, settings.language)
    )
    with no_bars():
        model, processor = compose(
            settings.preset,
            vision=vision,
            connector=settings.connector,
            language=language,
            tokenizer=settings.tokenizer,
            attention_policy=settings.attention_policy,
            dtype=torch.float32,
        )
    _own_memory(model)
    return model, processor


def _own_memory(model: nn.Module) -> None:
    """Copies the weights out of mapped files. There they are aligned differently from fresh ones, and fast sums depend
    on alignment: with copies, a resumed run computes exactly what the run before it would have."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def freeze(model: nn.Module, patterns: Sequence[str], may_freeze_all: bool = False) -> None:
    """Freezes the parameters whose names match any of the patterns.

    Raises:
        ValueError: a pattern matches nothing, or nothing is left to train (unless that may be).
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        matched = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matched:
            parts = sorted({".".join(name.split(".")[:2]) for name in parameters})
            raise ValueError(
                f"train.freeze: {pattern!r} matches no parameter; the model's parts are {', '.join(parts)} "
                f"(write {parts[0]}.* for all of the first)"
            )
        for name in matched:
            parameters[name].requires_grad_(False)
    if not may_freeze_all and not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"train.freeze: {', '.join(patterns)} freeze every parameter; leave something to train")


def _texts(mixture: Mixture, steps: int) -> Iterator[str]:
    """The texts of the samples that can be read. Raises what reading them does where none of the first few can be."""
    read = unread = 0
    for step in range(steps):
        for place, index in mixture.draws(step):
            try:
                sample = mixture.sources[place][index]
            except SAMPLE_ERRORS:
                unread += 1
                if not read and unread > ALWAYS_TOLERATED:
                    raise
                continue
            read += 1
            for message in sample.messages:
                if message.text:
                    yield message.text
