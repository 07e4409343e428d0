"""A model under every backend against the same model under the dense one."""

from __future__ import annotations

import pytest
import torch
from tiny_model import assert_checkpointing_changes_no_gradient, assistant, make_model, picture, user
from transformers import DynamicCache, StaticCache

from mutua.attention import BACKENDS, flex, sdpa, split
from mutua.roles import TokenRoles

ONE = [user(picture(1), "what colour is the circle?")]
TWO_IMAGES = [user(picture(3), "and", picture(4), "which is red?")]
TURNS = [user(picture(5), "what is it?"), assistant("a circle"), user(picture(6), "and this one?")]
BATCH = [ONE, TWO_IMAGES, [user("is there a small blue square?")], TURNS]


TRAINING = [name for name in BACKENDS if name not in (sdpa.NAME, flex.NAME)]  # flex has no backward on a CPU


@pytest.fixture(scope="module", params=[name for name in BACKENDS if name != sdpa.NAME])
def models(request):
    """The same weights under the dense backend and under another one."""
    pair = (make_model(), make_model())
    for model, name in zip(pair, (sdpa.NAME, request.param), strict=True):
        model.set_attn_implementation(name)
        assert model.model.language_model.config._attn_implementation == name
    return pair


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_equal_the_dense_backend(models, encode, side):
    inputs = encode(BATCH, side)
    with torch.no_grad():
        dense, ours = (model(**inputs).logits[inputs["attention_mask"].bool()] for model in models)
    torch.testing.assert_close(ours, dense, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"cache_implementation": "static"}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2}],
    ids=str,
)
def test_generated_tokens_equal_the_dense_backend(models, encode, options):
    inputs = encode(BATCH[:1] if "prompt_lookup_num_tokens" in options else BATCH, add_generation_prompt=True)
    dense, ours = (model.generate(**inputs, max_new_tokens=6, do_sample=False, **options) for model in models)
    assert torch.equal(ours, dense)


@pytest.mark.parametrize("models", TRAINING, indirect=True)
def test_a_training_step_equals_the_dense_backend(models, encode):
    inputs = encode([[*chat, assistant("a red square")] for chat in BATCH], "right")
    roles = TokenRoles.from_codes(inputs["token_type_ids"])
    labels = torch.where(roles.is_response_BN, inputs["input_ids"], -100)
    losses, gradients = [], []
    for model in models:
        model.train()
        model.zero_grad()
        losses.append(model(**inputs, labels=labels).loss)
        losses[-1].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        model.eval()
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0.0)
    assert gradients[0].keys() == gradients[1].keys()
    for name, dense in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], dense, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_cached_chat_equals_the_dense_backend_in_one_forward(models, encode, kind):
    """Turn by turn: the second image and question arrive behind a cache."""
    full, first = encode(TURNS, add_generation_prompt=True), encode(TURNS[:2])
    tokens = full["input_ids"].shape[1]
    with torch.no_grad():
        expected = models[0](**full).logits[:, first["input_ids"].shape[1] :]
        config = models[1].config.text_config
        cache = DynamicCache() if kind == "dynamic" else StaticCache(config=config, max_cache_len=tokens + 5)
        models[1](**first, past_key_values=cache)
        later = {key: full[key][:, first["input_ids"].shape[1] :] for key in ("input_ids", "token_type_ids")}
        out = models[1](**later, pixel_values=full["pixel_values"][1:], past_key_values=cache).logits
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0.0)


def test_gradient_checkpointing_changes_no_gradient(encode):
    model = make_model()
    model.set_attn_implementation(split.NAME)
    assert_checkpointing_changes_no_gradient(model, encode([*ONE, assistant("red")]))
