"""A model under every backend, by name, against the same model under the float64 oracle: below and above 512 tokens."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from tiny_model import assert_checkpointing_changes_no_gradient, assistant, make_model, make_processor, picture, user
from transformers import DynamicCache, StaticCache

from mutua.attention import BACKENDS, flex, reference, split
from mutua.models import MutuaForConditionalGeneration
from mutua.roles import TokenRoles

ONE = [user(picture(1), "what colour is the circle?")]
TWO_IMAGES = [user(picture(3), "and", picture(4), "which is red?")]
TURNS = [user(picture(5), "what is it?"), assistant("a circle"), user(picture(6), "and this one?")]
BATCH = [ONE, TWO_IMAGES, [user("is there a small blue square?")], TURNS]

# Patches a side. Rows have some 60 tokens, where `mutua_auto` takes a dense mask, or more than 512, where it does not.
GRIDS = {"short": 4, "long": 17}
OTHERS = [name for name in BACKENDS if name != reference.NAME]
TRAINING = [name for name in OTHERS if name != flex.NAME]  # flex has no backward on a CPU


def model_of(backend: str, length: str) -> MutuaForConditionalGeneration:
    model = make_model(grid=GRIDS[length])
    model.set_attn_implementation(backend)
    assert model.model.language_model.config._attn_implementation == backend
    return model


@pytest.fixture(scope="module", params=GRIDS)
def length(request: pytest.FixtureRequest) -> str:
    return request.param


# flex compiles for seconds at each new shape; tests of the backend and of leakage have it, too.
@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name == flex.NAME else ()) for name in OTHERS],
)
def model(request: pytest.FixtureRequest, length: str) -> MutuaForConditionalGeneration:
    return model_of(request.param, length)


def encode(length: str, messages: list, side: str = "left", **kwargs: object) -> dict[str, torch.Tensor]:
    processor = make_processor(make_model(grid=GRIDS[length]))
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", **kwargs}
    inputs = dict(processor.apply_chat_template(messages, processor_kwargs={"padding_side": side}, **options))
    assert (inputs["input_ids"].shape[1] >= 512) is (length == "long")
    return inputs


@torch.no_grad()
def logits(model: MutuaForConditionalGeneration, inputs: dict) -> torch.Tensor:
    return model(**inputs).logits[inputs["attention_mask"].bool()]


def train(model: MutuaForConditionalGeneration, inputs: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of a training step."""
    roles = TokenRoles.from_codes(inputs["token_type_ids"])
    labels = torch.where(roles.is_response_BN, inputs["input_ids"], -100)
    model.train().zero_grad()
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    model.eval()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@cache
def oracle(length: str, what: str, side: str) -> Any:
    """What the model gives under the oracle, computed once for all backends: it takes seconds for long rows."""
    model = model_of(reference.NAME, length)
    if what == "logits":
        return logits(model, encode(length, BATCH, side))
    if what == "training":
        return train(model, encode(length, [[*chat, assistant("a red square")] for chat in BATCH], side))
    if what == "a cached chat":
        return logits(model, encode(length, TURNS, add_generation_prompt=True))
    options: dict[str, Any] = {"num_beams": 3} if what == "beams" else {}
    inputs = encode(length, [TWO_IMAGES] if what == "one row" else BATCH, side, add_generation_prompt=True)
    return model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_equal_the_oracle(model, length, side):
    ours = logits(model, encode(length, BATCH, side))
    torch.testing.assert_close(ours, oracle(length, "logits", side), atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"cache_implementation": "static"}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2}],
    ids=str,
)
def test_generated_tokens_equal_the_oracle(model, length, options):
    what = {"num_beams": "beams", "prompt_lookup_num_tokens": "one row"}.get("".join(options), "tokens")
    inputs = encode(length, [TWO_IMAGES] if what == "one row" else BATCH, add_generation_prompt=True)
    ours = model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)
    assert torch.equal(ours, oracle(length, what, "left"))


def test_a_training_step_equals_the_oracle(model, length):
    if model.config._attn_implementation not in TRAINING:
        with pytest.raises(ValueError, match="has no backward on a CPU"):
            train(model, encode(length, [[*TWO_IMAGES, assistant("red")]], "right"))
        return
    loss, gradients = train(model, encode(length, [[*chat, assistant("a red square")] for chat in BATCH], "right"))
    expected_loss, expected = oracle(length, "training", "right")
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=0.0)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_cached_chat_equals_the_oracle_in_one_forward(model, length, kind):
    """Turn by turn: the second image and question arrive behind a cache."""
    full = encode(length, TURNS, add_generation_prompt=True)
    tokens = full["input_ids"].shape[1]
    is_second = TokenRoles.from_codes(full["token_type_ids"]).block_BN[0] == 1
    start = int(is_second.int().argmax())
    config = model.config.text_config
    cache = DynamicCache() if kind == "dynamic" else StaticCache(config=config, max_cache_len=tokens + 5)
    with torch.no_grad():
        for places, pixels in ((slice(start), slice(1)), (slice(start, None), slice(1, None))):
            now = {key: full[key][:, places] for key in ("input_ids", "token_type_ids")}
            out = model(**now, pixel_values=full["pixel_values"][pixels], past_key_values=cache).logits
    torch.testing.assert_close(out[0], oracle(length, "a cached chat", "left")[start:], atol=1e-4, rtol=0.0)


def test_gradient_checkpointing_changes_no_gradient(length):
    inputs = encode(length, [*TWO_IMAGES, assistant("red")])
    assert_checkpointing_changes_no_gradient(copy.deepcopy(model_of(split.NAME, length)), inputs)
