"""No model of ours says the placeholder of an image, however much it wants to: that would stop the whole batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from aki_checkpoint import write_checkpoint
from tiny_model import CORPUS, make_model, make_processor, picture, user
from tiny_parts import compose_from_folders
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

import mutua
from mutua.api import PACKAGED
from mutua.composition.tiny import tiny_model, train_tokenizer
from mutua.convert.aki import convert
from mutua.models.generation_config import reply_config


@contextmanager
def wanting_to_say(model, tokens: list[int]) -> Iterator[None]:
    """Every logit of these tokens is far above all others."""

    def raise_logits(module, inputs, logits):
        logits[..., tokens] += 1000.0
        return logits

    hook = model.lm_head.register_forward_hook(raise_logits)
    try:
        yield
    finally:
        hook.remove()


def said(model, processor, never: list[int], **options) -> torch.Tensor:
    """What a batch of two says at a high temperature."""
    torch.manual_seed(0)
    chats = [[user(picture(1), "is it red?")], [user("what colour is the circle?")]]
    inputs = processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    ).to(model.device, dtype=model.dtype)
    options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 12, "eos_token_id": None, **options}
    with wanting_to_say(model, never):
        return model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]


@pytest.fixture(scope="module")
def tiny():
    return tiny_model(train_tokenizer(CORPUS, vocab_size=320), make_model().config)


def ids(processor, *tokens: str) -> list[int]:
    return processor.tokenizer.convert_tokens_to_ids(list(tokens))


@pytest.mark.parametrize("options", [{}, {"do_sample": False, "temperature": None, "num_beams": 2}], ids=str)
def test_the_tiny_model(tiny, options):
    model, processor = tiny
    never = ids(processor, "<image>", "<|user|>", "<|assistant|>", "<|system|>")
    assert not torch.isin(said(model, processor, never, **options), torch.tensor(never)).any()


@pytest.mark.parametrize(
    "options",
    [{}, {"suppress_tokens": []}, {"suppress_tokens": None}, {"generation_config": GenerationConfig(do_sample=True)}],
    ids=["none", "empty", "None", "the caller's own"],
)
def test_however_generation_is_configured(options):
    """A model built from its config, whose generation config knows nothing."""
    model = make_model()
    processor = make_processor(model)
    assert model.generation_config.suppress_tokens is None
    never = ids(processor, "<image>")
    with wanting_to_say(model, never), torch.no_grad():
        assert model(input_ids=torch.tensor([[40]])).logits.argmax() == never[0], "it wants to"
    assert not torch.isin(said(model, processor, never, **options), torch.tensor(never)).any()


@pytest.mark.parametrize(
    "load",
    [
        lambda: mutua.load(),
        lambda: (AutoModelForImageTextToText.from_pretrained(PACKAGED), AutoProcessor.from_pretrained(PACKAGED)),
    ],
    ids=["mutua.load", "Auto classes"],
)
def test_the_packaged_model(load):
    model, processor = load()
    never = ids(processor, "<image>", "<|user|>", "<|assistant|>", "<|system|>")
    assert not torch.isin(said(model, processor, never), torch.tensor(never)).any()


def test_a_folder_whose_generation_config_lacks_it(tmp_path):
    shutil.copytree(PACKAGED, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    content = json.loads(path.read_text())
    del content["suppress_tokens"]
    path.write_text(json.dumps(content))
    for _ in range(2):
        model, processor = mutua.load(tmp_path / "model")
        assert processor.image_token_id not in said(model, processor, [processor.image_token_id])
        path.unlink(missing_ok=True)  # and then a folder that has none at all


def test_a_composed_model(tmp_path):
    made = compose_from_folders(tmp_path, "siglip", "llama")
    never = [made.processor.image_token_id]
    assert not torch.isin(said(made.model, made.processor, never), torch.tensor(never)).any()


def test_a_converted_model(tmp_path):
    folder = convert(write_checkpoint(tmp_path / "released", tokenizer=True), tmp_path / "converted")
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    never = ids(processor, "<image>", "<|user|>", "<|system|>", "<|assistant|>")
    assert not torch.isin(said(model, processor, never), torch.tensor(never)).any()
    assert ids(processor, "<|end|>")[0] in model.generation_config.eos_token_id


def test_a_converted_model_without_a_tokenizer(tmp_path):
    folder = convert(write_checkpoint(tmp_path / "released"), tmp_path / "converted")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.generation_config.suppress_tokens == [model.config.image_token_id]


def test_what_ends_a_reply_may_be_said():
    """Phi-3 ends a reply with <|end|>, and with <|assistant|> as well."""
    own = GenerationConfig(eos_token_id=[7, 2], suppress_tokens=[4], do_sample=True, temperature=0.5)
    config = reply_config(own, pad=9, ends=[7, 8], never=[1, 2, 3])
    assert (config.eos_token_id, config.suppress_tokens, config.pad_token_id) == ([7, 2, 8], [4, 1, 3], 9)
    assert (config.temperature, own.suppress_tokens, own.pad_token_id) == (0.5, [4], None)
    assert reply_config(GenerationConfig(), pad=9, ends=[5], never=[]).eos_token_id == 5
