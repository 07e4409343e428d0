"""From a recipe's `model` section to a model and its processor, and which of its weights stay frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from mutua.data.mixture import Mixture
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor
from mutua.models.presets import build_processor, tiny_config, train_tokenizer
from mutua.training.export import no_bars
from mutua.training.recipe import ModelSettings


def build_model(
    settings: ModelSettings, mixture: Mixture, tokenizer_texts: int
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """A preset with fresh weights and a tokenizer of its own, or the model in a folder."""
    if settings.path is not None:
        model, processor = load_model(settings.path)
        if settings.attention_policy is not None:
            model.config.attention_policy = settings.attention_policy
        return model, processor
    tokenizer = train_tokenizer(islice(_texts(mixture, tokenizer_texts), tokenizer_texts))
    sizes = {"attention_policy": settings.attention_policy, "connector": settings.connector}
    config = tiny_config(
        tokenizer, vision=settings.vision, text=settings.text, **{k: v for k, v in sizes.items() if v is not None}
    )
    return MutuaForConditionalGeneration(config), build_processor(tokenizer, config)


def load_model(folder: Path) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    """What `save_pretrained` wrote into `folder`, with fp32 weights to train."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"model.path {folder}: no model there (no config.json); give a folder that holds one")
    with no_bars():
        model = MutuaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    for parameter in model.parameters():
        # Weights may lie in a mapped file, aligned differently from fresh ones, and fast sums depend on alignment:
        # with copies, a resumed run computes exactly what the run before it would have.
        parameter.data = parameter.data.clone()
    return model, MutuaProcessor.from_pretrained(folder, local_files_only=True)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freezes the parameters whose names match any of the patterns.

    Raises:
        ValueError: a pattern matches nothing, or nothing is left to train.
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
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"train.freeze: {', '.join(patterns)} freeze every parameter; leave something to train")


def _texts(mixture: Mixture, steps: int) -> Iterator[str]:
    for step in range(steps):
        for sample in mixture[step]:
            for message in sample.messages:
                if message.text:
                    yield message.text
