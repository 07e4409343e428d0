"""A step on shapes alone holds what the step itself does: both are watched, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_parts import LANGUAGE, VISION, text_tokenizer

import mutua
from mutua.composition.compose import outline
from mutua.training import Recipe
from mutua.training.batches import batches, open_mixture
from mutua.training.build import freeze, model_to_train, texts_of_mixture
from mutua.training.dry_run import GRADIENTS, DryRun, Kernels, Shape, _Watch, dry_run
from mutua.training.lora import Adapters
from mutua.training.optimizer import build_optimizer
from mutua.training.outline import fake_weights, model_without_weights, outline_model
from mutua.training.precision import recompute_activations
from mutua.training.step import Stepper
from mutua.world import World

WIDER = (
    "model.text={hidden_size: 64, num_hidden_layers: 3, num_attention_heads: 2, intermediate_size: 128}",
    "train.batch_size=16",
    "train.micro_batch_size=16",
)


def watched(recipe: Recipe) -> tuple[DryRun, Shape]:
    """The first step of a run, as it is, and its shape."""
    mixture = open_mixture(recipe)
    model, processor, _ = model_to_train(recipe, mixture, None)
    if recipe.train.gradient_checkpointing:
        recompute_activations(model)
    stepper = Stepper(model, build_optimizer(model, recipe.train), recipe.train, World())
    batch = next(batches(mixture, processor, recipe, 0))
    (micro,) = batch.micro_batches
    watch = _Watch({id(p.untyped_storage()) for p in model.parameters()})
    for parameter in stepper.trained:
        parameter.register_post_accumulate_grad_hook(lambda parameter: watch.gradient_is_whole(parameter, 1.0))
    with watch:
        stepper.backward(batch)
    rows, tokens = micro["input_ids"].shape
    return watch.found, Shape(rows, tokens, len(micro["pixel_values"]), len(micro["supervised_positions"]))


def dry_run_of(recipe: Recipe, shape: Shape, *, dense: bool = True, **more: Any) -> DryRun:
    texts = texts_of_mixture(open_mixture(recipe), recipe.data.tokenizer_texts)
    config, _ = outline_model(recipe.model, texts)
    model = model_without_weights(config)
    freeze(model, recipe.train.freeze, may_freeze_all=recipe.train.lora is not None)
    if recipe.train.lora is not None:
        Adapters(model, recipe.train.lora)
    kernels = Kernels(cuda=False, bf16=recipe.train.precision == "bf16", dense=dense)
    with fake_weights(model):
        return dry_run(model, shape, kernels, gradient_checkpointing=recipe.train.gradient_checkpointing, **more)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.gradient_checkpointing=true",),
        ("train.precision=bf16",),
        ("train.freeze=['model.vision_tower.*']",),
        ("train.freeze=['model.vision_tower.*', 'model.language_model.*']",),
        ("train.lora={rank: 4, dropout: 0.1}", "train.freeze=['model.vision_tower.*']"),
        ("model.connector={type: resampler, latents: 9, depth: 2}",),
        ("model.text={model_type: qwen3, hidden_size: 64, num_hidden_layers: 3, num_attention_heads: 4, "
         "num_key_value_heads: 2, intermediate_size: 128}",),
        ("model.text={model_type: phi3, hidden_size: 64, num_hidden_layers: 3, num_attention_heads: 2, "
         "intermediate_size: 128}", "train.gradient_checkpointing=true", "train.precision=bf16"),
    ],
    ids=["whole", "checkpointing", "bf16", "eyes", "stage-1", "lora", "resampler", "qwen3", "phi3"],
)  # fmt: skip
def test_it_holds_what_a_step_holds(
    recipe_in: Callable[..., Recipe], tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    recipe = recipe_in(tmp_path, *WIDER, "train.precision=fp32", *overrides)
    found, shape = watched(recipe)
    expected = dry_run_of(recipe, shape)
    assert expected.peak.total() == pytest.approx(found.peak.total(), rel=0.05)
    flops = [sum(flops for flops, _ in one.operations) for one in (expected, found)]
    assert flops[0] == pytest.approx(flops[1], rel=0.15)


def test_without_a_mask_it_holds_what_split_does(recipe_in: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, *WIDER, "train.precision=fp32", "data.packing={tokens: 700}", "train.batch_size=40")
    found, shape = watched(recipe)
    assert shape.tokens > 512
    assert dry_run_of(recipe, shape, dense=False).peak.total() == pytest.approx(found.peak.total(), rel=0.05)


def test_gradients_of_a_micro_batch_before_are_there(recipe_in: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, *WIDER, "train.precision=fp32")
    shape = Shape(2, 40, 2, 20)
    first, later = (dry_run_of(recipe, shape, accumulates=accumulates) for accumulates in (False, True))
    config, _ = outline_model(recipe.model, ["a"])
    assert later.peak[GRADIENTS] > 0.99 * 4 * sum(p.numel() for p in model_without_weights(config).parameters())
    assert later.peak.total() > first.peak.total()


def test_cached_features_take_the_place_of_the_encoder(recipe_in: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, *WIDER, "train.freeze=['model.vision_tower.*']")
    shape = Shape(64, 20, 64, 20)
    plain, cached = (dry_run_of(recipe, shape, has_cached_features=has) for has in (False, True))
    assert sum(f for f, _ in cached.operations) < sum(f for f, _ in plain.operations)


def without_types(config: Any) -> Any:
    """A config with no word on the types of weights, which come with them."""
    if not isinstance(config, dict):
        return config
    return {
        key: without_types(value)
        for key, value in config.items()
        if key not in ("dtype", "architectures", "_name_or_path")
    }


def every_language_model() -> Iterator[Any]:
    """With either encoder in turn; `-m slow` has the other halves of the pairs."""
    for number, language in enumerate(LANGUAGE):
        for turn, vision in enumerate(("siglip", "dinov2_with_registers")):
            marks = () if number % 2 == turn else pytest.mark.slow
            yield pytest.param(language, vision, marks=marks, id=f"{vision}-{language}")


@pytest.mark.parametrize(("language", "vision"), list(every_language_model()))
def test_every_language_model_that_can_be_composed(language: str, vision: str) -> None:
    parts = {"vision": VISION[vision](), "language": LANGUAGE[language](vocab_size=304), "tokenizer": text_tokenizer()}
    config, processor = outline(**parts)
    model, real = mutua.compose(**parts, dtype=torch.float32)
    assert without_types(config.to_dict()) == without_types(model.config.to_dict())
    assert processor.num_image_tokens == real.num_image_tokens
    assert {n: p.shape for n, p in model_without_weights(config).named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    empty = model_without_weights(config)
    with fake_weights(empty):
        for cuda, bf16, dense in ((False, False, True), (True, True, False)):
            shape = Shape(2, 2 * config.num_image_tokens, 2, 4)
            found = dry_run(empty, shape, Kernels(cuda, bf16, dense), gradient_checkpointing=cuda)
            assert found.peak.total() > 0
