"""From a recipe's `model` section to a model and its processor, and which of its weights stay frozen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from fnmatch import fnmatchcase
from functools import singledispatch
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import AutoConfig, GenerationConfig

from mutua.chat.template import ChatTemplateError
from mutua.composition import compose
from mutua.composition.parts import load_vision, read_image_processor
from mutua.composition.tiny import tiny_config, tiny_model, train_tokenizer
from mutua.composition.tokenizer import CHATML, reply_end
from mutua.data.mixture import Mixture
from mutua.data.sample import Sample
from mutua.folders import whole_folder
from mutua.models import MutuaConfig, MutuaForConditionalGeneration, MutuaProcessor
from mutua.models.connectors import connector_keys
from mutua.models.loading import check_folder, copy_weights, load_model
from mutua.models.model_folder import ModelError, blamed_on, expect_sizes
from mutua.models.vision import given_side, vision_encoder
from mutua.quiet import quiet
from mutua.training.lora import Adapters, is_adapter, is_lora, without_adapters
from mutua.training.model_settings import FolderModel, ForeignModel, ModelSettings, PartsModel, PresetModel, TinyModel
from mutua.training.precision import uses_bf16
from mutua.training.recipe import Recipe
from mutua.training.run_folder import RunFolder
from mutua.training.samples import ALWAYS_TOLERATED, SAMPLE_ERRORS
from mutua.training.shards import empty_model, read_shards, shard, weights_of
from mutua.unlocking import expect_unlocked, is_foreign, load_foreign
from mutua.world import World

_SECONDS_BETWEEN_LINES = 10

Model: TypeAlias = tuple[Any, Any]
"""One of ours, or an unlocked one of others, and its processor."""


def model_to_train(
    recipe: Recipe, mixture: Mixture, newest: Path | None, say: Callable[[str], None] = lambda _: None
) -> tuple[Any, Any, Adapters | None]:
    """The model where the recipe starts, or as the checkpoint `newest` has it; what the recipe says is frozen.

    What takes long tells `say` how far it is.

    Raises:
        ValueError, OSError: a setting that cannot work, with its place.
        CheckpointError: the checkpoint goes with another model than the one that the recipe starts from.
    """
    lora = recipe.train.lora
    if newest is None or lora is not None:  # a checkpoint of a run with adapters has no more than what is trained
        model, processor = build_model(recipe.model, mixture, recipe.data.tokenizer_texts, say)
    elif isinstance(recipe.model, ForeignModel):
        model, processor = load_foreign_to_train(newest, recipe.model.unlock)
    else:
        model, processor = load_to_train(newest)
    freeze(model, recipe.train.freeze, may_freeze_all=lora is not None)
    if lora is None:
        return model, processor, None
    adapters = Adapters(model, lora, processor=processor)
    if newest is not None:
        adapters.load(newest)
    return model, processor, adapters


def sharded_model(
    recipe: Recipe,
    mixture: Mixture,
    newest: Path | None,
    folder: RunFolder,
    world: World,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor, Adapters | None]:
    """As `model_to_train`, each process with its shard. What no folder holds yet the first process builds and saves.

    Raises:
        ValueError, OSError: a setting that cannot work, with its place.
        CheckpointError: the checkpoint goes with another model than the one that the recipe starts from.
    """
    lora = recipe.train.lora
    if isinstance(recipe.model, ForeignModel):
        raise ValueError(f"model.unlock: a model of others is trained in one process, and there are {world.size}.")

    def start() -> tuple[Path, Path | None, str | None]:
        """The folder of the weights, and with adapters that of what is trained, and the mark of what is frozen."""
        if newest is not None and lora is None:
            return newest, None, None
        place = start_of(recipe, folder)
        if newest is None:  # what is there may be of another recipe, which was mended
            for old in (folder.start, folder.start_adapters):
                rmtree(old, ignore_errors=True)
        if place == folder.start and not place.is_dir():  # a run of one process that goes on in several has none, too
            model, processor = build_model(recipe.model, mixture, recipe.data.tokenizer_texts, say)
            with whole_folder(place) as partial, quiet():
                model.save_pretrained(partial)
                processor.save_pretrained(partial)
        if lora is None:
            return place, None, None
        _, _, adapters = adapted_model(recipe, folder, newest)
        if newest is None:
            with whole_folder(folder.start_adapters) as partial:
                adapters.save(partial, adapters.weights())
        return place, newest or folder.start_adapters, adapters.frozen

    place, trained, frozen = world.first(start)
    config, processor = check_folder(place, policy=_policy(recipe) if newest is None or lora else None)
    model = empty_model(config)
    model.generation_config = GenerationConfig.from_pretrained(place, local_files_only=True)
    freeze(model, recipe.train.freeze, may_freeze_all=lora is not None)
    adapters = None if lora is None else Adapters(model, lora, frozen, processor)
    shard(model, world, recipe.train.replicas, uses_bf16(recipe.train, world.device))
    own = {without_adapters(name): tensor for name, tensor in weights_of(model).items() if not is_adapter(name)}
    read_shards(place, own)
    if adapters is not None and trained is not None:
        adapters.load(trained)
    return model, processor, adapters


def start_of(recipe: Recipe, folder: RunFolder) -> Path:
    """The folder of the model that a run in several processes starts from."""
    return recipe.model.path if isinstance(recipe.model, FolderModel) else folder.start


def adapted_model(
    recipe: Recipe, folder: RunFolder, trained: Path | None
) -> tuple[MutuaForConditionalGeneration, MutuaProcessor, Adapters]:
    """In one process, whole: the model that a run of several started from, with adapters, as `trained` has them."""
    if recipe.train.lora is None:
        raise ValueError("train.lora is not given")
    model, processor = load_to_train(start_of(recipe, folder), _policy(recipe))
    freeze(model, recipe.train.freeze, may_freeze_all=True)
    adapters = Adapters(model, recipe.train.lora, processor=processor)
    if trained is not None:
        adapters.load(trained)
    return model, processor, adapters


def _policy(recipe: Recipe) -> str | None:
    return recipe.model.attention_policy if isinstance(recipe.model, FolderModel) else None


def build_model(
    settings: ModelSettings, mixture: Mixture, tokenizer_texts: int, say: Callable[[str], None] = lambda _: None
) -> Model:
    """The model where the recipe starts; a tokenizer of its own learns from the mixture, whatever its seed: runs that
    differ in seeds speak one vocabulary."""
    return _build(settings, _counted(texts_of_mixture(mixture, tokenizer_texts), tokenizer_texts, say))


def texts_of_mixture(mixture: Mixture, count: int) -> Iterator[str]:
    """The first so many texts of a mixture, whatever its seed, for a tokenizer to learn from."""
    mixture = copy(mixture)
    mixture.seed = 0
    return islice(_texts(mixture, count), count)


@singledispatch
def _build(settings: ModelSettings, texts: Iterable[str]) -> Model:
    """The model of one kind of origin, with fp32 weights to train; `texts` of the data teach a tokenizer."""
    raise NotImplementedError(type(settings))


@_build.register
def _tiny(settings: TinyModel, texts: Iterable[str]) -> Model:
    encoder, pictures = None, None
    if isinstance(settings.vision, str):
        with quiet():
            encoder, pictures = load_vision(settings.vision, torch.float32), read_image_processor(settings.vision)
    tokenizer = train_tokenizer(texts)
    with blamed_on("model.vision, model.text", "Give sizes that go together."):
        config = tiny_sizes(settings, tokenizer, None if encoder is None else encoder.config, pictures)
        return tiny_model(tokenizer, config, encoder, pictures)


def tiny_sizes(settings: TinyModel, tokenizer: Any, encoder: Any, pictures: Mapping[str, Any] | None) -> MutuaConfig:
    """The config of a tiny model.

    Args:
        encoder: the config of the vision encoder that is taken over; None where it is fresh.
        pictures: what that one's checkpoint says of pictures.
    """
    overrides = {} if settings.connector is None else connector_keys(settings.connector)
    if settings.attention_policy is not None:
        overrides["attention_policy"] = settings.attention_policy
    if isinstance(settings.vision, dict):
        expect_sizes("model.vision.", settings.vision)
    elif vision_encoder(encoder).any_size:
        overrides["image_size"] = given_side(pictures or {})
    expect_sizes("model.text.", settings.text)
    return tiny_config(tokenizer, vision=encoder or settings.vision, text=settings.text, **overrides)


@_build.register
def _folder(settings: FolderModel, texts: Iterable[str]) -> Model:
    return load_to_train(settings.path, settings.attention_policy)


@_build.register
def _foreign(settings: ForeignModel, texts: Iterable[str]) -> Model:
    return load_foreign_to_train(settings.path, settings.unlock)


@_build.register
def _parts(settings: PartsModel, texts: Iterable[str]) -> Model:
    return _compose(settings, None)


@_build.register
def _preset(settings: PresetModel, texts: Iterable[str]) -> Model:
    return _compose(settings, settings.preset)


def _compose(settings: PartsModel | PresetModel, preset: str | None) -> Model:
    with quiet():
        model, processor = compose(preset, **parts_of(settings), dtype=torch.float32)
    expect_replies(processor)
    copy_weights(model)
    return model, processor


def parts_of(settings: PartsModel | PresetModel) -> dict[str, Any]:
    """What `compose` and `outline` take beside a preset's name.

    Raises:
        ValueError: the file of the chat template cannot be read.
    """
    vision, language = (
        AutoConfig.for_model(**part) if isinstance(part, dict) else part
        for part in (settings.vision, settings.language)
    )
    return {
        "vision": vision,
        "connector": settings.connector,
        "language": language,
        "tokenizer": settings.tokenizer,
        "chat_template": _chat_template(settings.chat_template),
        "attention_policy": settings.attention_policy,
    }


def _chat_template(named: str | None) -> str | None:
    if named is None or named == CHATML:
        return named
    try:
        return Path(named).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"model.chat_template {named}: cannot be read ({error}); name a Jinja file, or {CHATML}"
        ) from None


def expect_replies(processor: MutuaProcessor) -> None:
    """A template in which replies cannot be found would have every sample left out.

    Raises:
        ValueError: there is none; with the remedy.
    """
    try:
        reply_end(processor.tokenizer, processor.chat_template)
    except ChatTemplateError as error:
        raise ValueError(
            f"model: {error} Or name another template: model.chat_template, a Jinja file or {CHATML}."
        ) from None


def load_to_train(folder: Path, policy: str | None = None) -> Model:
    """What `save_pretrained` wrote into `folder`, with fp32 weights that lie in memory of their own."""
    if is_lora(folder):
        raise ModelError(
            f"model.path {folder}: a checkpoint of a run with train.lora is no model by itself; its finished model is"
        )
    try:
        if is_foreign(folder):
            raise ModelError("it is a model of others: model.unlock, e.g. mma, trains it under that policy")
        with quiet():
            model, processor = load_model(folder, policy=policy, dtype=torch.float32)
    except ModelError as error:
        raise ModelError(f"model.path {folder}: {error}") from None
    copy_weights(model)
    return model, processor


def load_foreign_to_train(folder: Path, policy: str) -> Model:
    """As `load_to_train`, a model of others, unlocked."""
    try:
        if not is_foreign(folder):
            raise ModelError("it is no multimodal model of others; model.attention_policy is for one of Mutua's own")
        with quiet():
            model, processor = load_foreign(folder, policy, device="cpu", dtype=torch.float32)
    except ModelError as error:
        raise ModelError(f"model.path {folder}: {error}") from None
    expect_unlocked(model)
    copy_weights(model)
    return model, processor


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


def _counted(texts: Iterable[str], total: int, say: Callable[[str], None]) -> Iterator[str]:
    """The texts. Says now and then how many have been read."""
    said = time.monotonic()
    for number, text in enumerate(texts):
        if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"the tokenizer has read {number} of {total} texts (data.tokenizer_texts)")
        yield text


def _texts(mixture: Mixture, steps: int) -> Iterator[str]:
    """The texts of the samples that can be read. Raises what reading them does where none of the first few can be."""
    read = unread = 0
    for step in range(steps):
        for sample in mixture.read(mixture.draws(step), SAMPLE_ERRORS):
            if not isinstance(sample, Sample):
                unread += 1
                if not read and unread > ALWAYS_TOLERATED:
                    raise sample
                continue
            read += 1
            for message in sample.messages:
                if message.text:
                    yield message.text
