"""Recipes that put a model together: from folders, from configs; trained, stopped and gone on with."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from chat_shapes import QWEN3
from rich.console import Console
from tiny_parts import compose_from_folders, text_tokenizer

from mutua.composition import ComposeError
from mutua.data.mixture import Mixture
from mutua.models import MutuaForConditionalGeneration
from mutua.training import dump_recipe, load_recipe, train
from mutua.training.build import build_model
from mutua.training.outline import outline_model

CONFIGS = (
    "model={vision: {model_type: dinov2, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, image_size: 16,"
    " patch_size: 8}, language: {model_type: qwen3, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1,"
    " num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16, vocab_size: 304}, connector: mlp,"
)


def test_from_folders(tmp_path: Path, recipe_in) -> None:
    made = compose_from_folders(tmp_path, "siglip", "smollm2")
    parts = f"vision: {tmp_path / 'vision'}, language: {tmp_path / 'language'}"
    recipe = recipe_in(
        tmp_path,
        f"model={{{parts}, attention_policy: causal, connector: {{type: resampler, latents: 4, depth: 1}}}}",
        "train.freeze=['model.vision_tower.*', 'model.language_model.*', 'lm_head.*']",
    )
    (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "dumped.yaml") == recipe
    torch.manual_seed(recipe.seeds.weights)
    model, processor = build_model(recipe.model, Mixture([["unused"]], [1.0], 0, 1), 1)
    assert (model.config.attention_policy, processor.num_image_tokens) == ("causal", 4)
    assert model.dtype == torch.float32
    for name, weight in made.language.model.named_parameters():
        assert torch.equal(model.model.language_model.get_parameter(name), weight)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_run_of_configs(tmp_path: Path, recipe_in, console: Console) -> None:
    folder = tmp_path / "parts"
    compose_from_folders(folder, "siglip", "llama")
    recipe = recipe_in(tmp_path, f"{CONFIGS} tokenizer: {folder / 'language'}}}", "train.steps=3")
    result = train(recipe, console)
    model = MutuaForConditionalGeneration.from_pretrained(result.folder)
    assert model.config.vision_config.model_type == "dinov2"
    assert model.config.num_image_tokens == 4


def test_a_part_that_is_not_there(tmp_path: Path, recipe_in, console: Console) -> None:
    with pytest.raises(ComposeError, match=r"language \./nowhere: no such folder"):
        train(recipe_in(tmp_path, "model={preset: smollm2-135m, language: ./nowhere}"), console)
    with pytest.raises(ComposeError, match="language is a bare config, which has no tokenizer"):
        train(recipe_in(tmp_path, f"{CONFIGS}}}"), console)


def test_a_template_that_hides_the_reply_is_refused_and_another_can_be_named(tmp_path: Path, recipe_in) -> None:
    """Qwen3's: every sample would be left out, after all weights were loaded."""
    compose_from_folders(tmp_path, "siglip", "llama")
    tokens = text_tokenizer()
    tokens.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokens.chat_template = QWEN3
    tokens.save_pretrained(tmp_path / "language")
    parts = f"model={{vision: {tmp_path / 'vision'}, language: {tmp_path / 'language'}"
    recipe = recipe_in(tmp_path, f"{parts}}}")
    for make in (
        lambda model: build_model(model, Mixture([["unused"]], [1.0], 0, 1), 1),
        partial(outline_model, texts=()),
    ):
        with pytest.raises(
            ValueError, match=r"model: the chat template .* Or name another template: model.chat_template"
        ):
            make(recipe.model)
    chosen = recipe_in(tmp_path, f"{parts}, chat_template: chatml}}").model
    _, processor = build_model(chosen, Mixture([["unused"]], [1.0], 0, 1), 1)
    assert "generation" in processor.chat_template
    assert outline_model(chosen, ())[1].chat_template == processor.chat_template
    with pytest.raises(ValueError, match=r"model.chat_template nowhere.jinja: cannot be read"):
        outline_model(recipe_in(tmp_path, f"{parts}, chat_template: nowhere.jinja}}").model, ())
