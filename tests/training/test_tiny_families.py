"""Preset tiny with language models of other types, and with the vision encoder of another model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

import mutua
from mutua.composition.parts import ComposeError
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor
from mutua.models.model_folder import PACKAGED
from mutua.training import Recipe, train
from mutua.training.batches import open_mixture
from mutua.training.build import build_model

FAMILIES = ("llama", "qwen3", "phi3", "mistral")
TEXT = "hidden_size: 48, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 96"
VISION = "{hidden_size: 48, num_hidden_layers: 0, num_attention_heads: 4, intermediate_size: 64, image_size: 16}"
SHORT = ("train.steps=3", "data.tokenizer_texts=40", "evaluate.sources={}")


def built(recipe: Recipe) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    torch.manual_seed(0)
    return build_model(recipe.model, open_mixture(recipe), 40)


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_of_each(tmp_path: Path, recipe_in, family: str) -> None:
    text = f"model.text={{model_type: {family}, {TEXT}}}"
    result = train(recipe_in(tmp_path, text, f"model.vision={VISION}", *SHORT), Console(quiet=True))
    assert result.folder is not None
    model, _ = mutua.load(result.folder)
    assert model.config.text_config.model_type == family
    assert model.config.num_image_tokens == 1


def test_all_have_the_same_size(tmp_path: Path, recipe_in) -> None:
    """But for what a type has of its own: Qwen3 norms queries and keys, of 12 numbers a head here."""
    sizes = {
        family: size(built(recipe_in(tmp_path, f"model.text={{model_type: {family}, {TEXT}}}"))[0])
        for family in FAMILIES
    }
    assert sizes["qwen3"] == sizes["llama"] + 2 * 2 * 12
    assert sizes["llama"] == sizes["phi3"] == sizes["mistral"]


@pytest.mark.parametrize("connector", ["mlp", "resampler"])
@pytest.mark.parametrize("family", FAMILIES[:3])
def test_initializer_range_reaches_language_model_and_connector(
    tmp_path: Path, recipe_in, family: str, connector: str
) -> None:
    text = f"model.text={{model_type: {family}, {TEXT}, initializer_range: 0.1}}"
    model, _ = built(recipe_in(tmp_path, text, f"model.connector={connector}"))
    for part in (model.model.language_model, model.model.connector):
        matrices = {name: weight for name, weight in part.named_parameters() if weight.ndim == 2 and name != "latents"}
        assert len(matrices) >= 2
        for name, weight in matrices.items():
            assert float(weight.detach().std()) == pytest.approx(0.1, rel=0.08), name
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_type_that_cannot_be_of_these_sizes(tmp_path: Path, recipe_in) -> None:
    with pytest.raises(ValueError, match="model_type 'gpt2' has no key 'hidden_size'"):
        built(recipe_in(tmp_path, "model.text={model_type: gpt2}"))


def test_the_vision_encoder_of_another_model(tmp_path: Path, recipe_in) -> None:
    donor, donor_processor = mutua.load(PACKAGED)
    encoder = donor.model.vision_tower.state_dict()
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        recipe = recipe_in(
            folder,
            *(f"seed={{weights: {seed}}}", f"model={{preset: tiny, vision: {PACKAGED}, text: {{{TEXT}}}}}", *SHORT),
            *("train.freeze=['model.vision_tower.*']", "train.cache_vision_mb=8"),
        )
        result = train(recipe, Console(quiet=True))
        assert result.folder is not None
        model, processor = mutua.load(result.folder)
        mine = model.model.vision_tower.state_dict()
        assert mine.keys() == encoder.keys()
        assert all(torch.equal(mine[name], encoder[name]) for name in encoder)
        assert processor.image_processor.size == donor_processor.image_processor.size
        assert model.config.num_image_tokens == donor.config.num_image_tokens
    first, second = (mutua.load(tmp_path / seed / "run" / "model")[0].model.connector.up.weight for seed in "12")
    assert not torch.equal(first, second)


def test_an_encoder_that_is_not_there(tmp_path: Path, recipe_in) -> None:
    with pytest.raises(ComposeError, match=r"vision \./nowhere: no such folder"):
        built(recipe_in(tmp_path, "model={preset: tiny, vision: ./nowhere}"))


def test_the_backend_is_left_to_the_forward_pass(recipe_in, tmp_path) -> None:
    recipe = recipe_in(tmp_path)
    model, _ = build_model(recipe.model, open_mixture(recipe), recipe.data.tokenizer_texts)
    assert model.config.text_config._attn_implementation == "mutua_auto"
