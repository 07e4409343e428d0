"""From a recipe's `model` section to config and processor: all of a model but its weights, which are neither read nor
made."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import singledispatch
from typing import Any, TypeAlias

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

from mutua.composition.compose import outline
from mutua.composition.parts import read_config, read_image_processor, vision_config
from mutua.composition.tiny import CHAT_TEMPLATE, train_tokenizer
from mutua.models import MutuaConfig, MutuaForConditionalGeneration, MutuaProcessor
from mutua.models.loading import load_processor
from mutua.models.model_folder import ModelError, blamed_on
from mutua.quiet import quiet
from mutua.training.build import expect_replies, parts_of, tiny_sizes
from mutua.training.model_settings import FolderModel, ForeignModel, ModelSettings, PartsModel, PresetModel, TinyModel

Outline: TypeAlias = tuple[MutuaConfig, MutuaProcessor]


@singledispatch
def outline_model(settings: ModelSettings, texts: Iterable[str]) -> Outline:
    """Config and processor of the model where a recipe starts; `texts` of the data teach a tokenizer.

    Raises:
        ValueError, OSError: a setting that cannot work, with its place.
    """
    raise NotImplementedError(type(settings))


@outline_model.register
def _tiny(settings: TinyModel, texts: Iterable[str]) -> Outline:
    encoder, pictures = None, None
    if isinstance(settings.vision, str):
        with quiet():
            encoder = vision_config(read_config("vision", settings.vision))
            pictures = read_image_processor(settings.vision)
    tokenizer = train_tokenizer(texts)
    with blamed_on("model.vision, model.text", "Give sizes that go together."):
        config = tiny_sizes(settings, tokenizer, encoder, pictures)
        return config, MutuaProcessor.for_config(config, tokenizer, CHAT_TEMPLATE, pictures)


@outline_model.register
def _folder(settings: FolderModel, texts: Iterable[str]) -> Outline:
    try:
        with quiet():
            return load_processor(settings.path, policy=settings.attention_policy)
    except ModelError as error:
        raise ModelError(f"model.path {settings.path}: {error}") from None


@outline_model.register
def _foreign(settings: ForeignModel, texts: Iterable[str]) -> Outline:
    raise ValueError("model.unlock: what a model of others takes is found by running it; plans are for Mutua's own.")


@outline_model.register
def _parts(settings: PartsModel, texts: Iterable[str]) -> Outline:
    return _composed(settings, None)


@outline_model.register
def _preset(settings: PresetModel, texts: Iterable[str]) -> Outline:
    return _composed(settings, settings.preset)


def _composed(settings: PartsModel | PresetModel, preset: str | None) -> Outline:
    with quiet():
        config, processor = outline(preset, **parts_of(settings))
    expect_replies(processor)
    return config, processor


def model_without_weights(config: MutuaConfig) -> MutuaForConditionalGeneration:
    """The model of a config on the meta device, in fp32, to be frozen and given adapters.

    Raises:
        ModelError: its sizes do not go together.
    """
    for part in (config, config.text_config, config.vision_config):
        part.dtype = torch.float32
    _unscale_positions(config.text_config)
    blamed = blamed_on("model", "No model can be built of its sizes: put them right.")
    with quiet(), no_init_weights(), blamed, torch.device("meta"):
        model = MutuaForConditionalGeneration(config)
    model.tie_weights()  # left out with the numbers
    return model


@contextmanager
def fake_weights(model: nn.Module, halved: Collection[nn.Parameter] = ()) -> Iterator[None]:
    """Makes the model compute on shapes: in the block, its weights (from the meta device) and all tensors that are made
    are fake ones, as on a CPU.

    Args:
        halved: weights that become bf16.
    """
    halves, fakes = set(halved), {}
    with FakeTensorMode():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter not in fakes:  # tied ones stay tied
                    dtype = torch.bfloat16 if parameter in halves else parameter.dtype
                    fakes[parameter] = nn.Parameter(torch.empty(parameter.shape, dtype=dtype), parameter.requires_grad)
                module._parameters[name] = fakes[parameter]
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        yield


def _unscale_positions(text_config: Any) -> None:
    """Some scalings of positions look at the numbers, of which there are none here; they take no memory of note."""
    given = getattr(text_config, "rope_parameters", None)
    if isinstance(given, dict) and given.get("rope_type") in ("longrope", "dynamic"):
        kept = ("rope_theta", "partial_rotary_factor")
        text_config.rope_parameters = {"rope_type": "default", **{key: given[key] for key in kept if key in given}}
