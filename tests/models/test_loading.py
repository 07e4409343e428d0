"""One loader: what it gives, and what it does not let pass."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import make_model, save_model
from transformers.utils import logging

from mutua.models import MutuaProcessor, model_folder
from mutua.models.loading import copy_weights, load_model, load_processor
from mutua.models.model_folder import ModelError
from mutua.quiet import quiet
from mutua.unlocking import is_foreign
from mutua.unlocking.loading import load_foreign_processor


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path)


def test_weights_policy_and_dtype(folder):
    model, processor = load_model(folder, policy="causal", dtype=torch.bfloat16)
    assert (model.config.attention_policy, model.dtype, model.training) == ("causal", torch.bfloat16, False)
    assert processor.num_image_tokens == 16
    saved, (model, _) = make_model("mma").state_dict(), load_model(folder)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, saved[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.connector.up.bias"), "the checkpoint lacks model.connector.up.bias"),
        (lambda w: w.update({"lm_head.bias": torch.zeros(3)}), "no place for: lm_head.bias"),
        (lambda w: w.update({"model.connector.up.bias": torch.zeros(3)}), "other shapes for model.connector.up.bias"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(folder, change, message):
    """Transformers would fill in random weights, or drop them, and go on."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message) as error:
        load_model(folder)
    assert str(error.value).startswith(f"model {folder}: ")


def test_no_model_there(tmp_path):
    with pytest.raises(ModelError, match="no model at no/such/folder"):
        load_model("no/such/folder")
    with pytest.raises(ModelError, match=r"no model in .*no config\.json"):
        load_processor(tmp_path)


def test_copied_weights_are_equal_and_lie_elsewhere(folder):
    model, _ = load_model(folder)
    before = {name: (weight.data_ptr(), weight.clone()) for name, weight in model.named_parameters()}
    copy_weights(model)
    for name, weight in model.named_parameters():
        assert weight.data_ptr() != before[name][0]
        assert torch.equal(weight, before[name][1])


def test_quiet_ends_where_its_block_ends():
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_info()
        logging.enable_progress_bar()
        with quiet():
            assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.ERROR, False)
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.INFO, True)
    finally:
        logging.set_verbosity(verbosity)
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()


def test_weights_in_two_places_are_refused(folder):
    """Transformers would load the first of them, which a later save in shards leaves as it was."""
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"in model.safetensors, and model.safetensors.index.json names other files"):
        load_model(folder)


def test_what_reads_no_weight_fetches_none(monkeypatch):
    asked = []

    def fetch(name, allow_patterns):
        asked.append("*.safetensors" in allow_patterns)
        raise OSError("no network")

    monkeypatch.setattr(model_folder, "snapshot_download", fetch)
    for load in (load_processor, is_foreign, load_foreign_processor, load_model):
        with pytest.raises(ModelError, match="no network"):
            load("owner/name")
    assert asked == [False, False, False, True]


def test_an_image_processor_of_torchvision_becomes_ours_again(folder):
    """Transformers makes the other one of what we save, where torchvision is."""
    _, processor = load_model(folder)
    ours = processor.image_processor
    other = type("SiglipImageProcessor", (), {"to_dict": lambda self: ours.to_dict()})()
    again = MutuaProcessor(other, processor.tokenizer, num_image_tokens=4).image_processor
    assert (type(again), again.to_dict()) == (type(ours), ours.to_dict())


def test_a_frozen_vision_encoder_is_as_in_use_while_the_rest_is_trained(folder):
    model, _ = load_model(folder)
    assert model.train().model.vision_tower.training
    for weight in model.model.vision_tower.parameters():
        weight.requires_grad_(False)
    model.train()
    assert (model.model.vision_tower.training, model.model.language_model.training) == (False, True)
    assert not model.eval().model.language_model.training
