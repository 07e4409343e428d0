"""Whatever would drop the mask or leak an answer is refused, with an error that names the remedy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_model import assistant, make_model, picture, user
from transformers import DynamicCache

from mutua.models import MutuaConfig
from mutua.roles import TokenRoles

ASKED = [user(picture(1), "is it red?")]


def test_images_without_roles(model, encode):
    inputs = encode(ASKED)
    del inputs["token_type_ids"]
    with pytest.raises(ValueError, match="images came without token_type_ids"):
        model(**inputs)
    del inputs["pixel_values"]
    with pytest.raises(ValueError, match="images came without token_type_ids"):
        model(**inputs)


def test_roles_that_contradict_the_tokens(model, encode):
    inputs = encode(ASKED)
    with pytest.raises(ValueError, match="disagree on which tokens are images"):
        model(**{**inputs, "token_type_ids": torch.zeros_like(inputs["token_type_ids"])})
    with pytest.raises(ValueError, match="the forward holds"):
        model(**{**inputs, "token_type_ids": inputs["token_type_ids"][:, 1:]})


def test_a_label_on_a_prompt_token(model, encode):
    inputs = encode([*ASKED, assistant("yes")])
    with pytest.raises(ValueError, match="stands on a prompt token"):
        model(**inputs, labels=inputs["input_ids"])
    causal = make_model("causal")
    assert torch.isfinite(causal(**inputs, labels=inputs["input_ids"]).loss)


def test_a_prefill_cut_into_chunks(model, encode):
    with pytest.raises(ValueError, match="prefill_chunk_size=4"):
        model.generate(**encode(ASKED, add_generation_prompt=True), max_new_tokens=2, prefill_chunk_size=4)


def test_a_packed_row_with_a_cache(model, encode):
    inputs = encode(ASKED)
    roles = TokenRoles.from_codes(inputs["token_type_ids"])
    inputs["token_type_ids"] = replace(roles, document_BN=roles.document_BN + 1).to_codes()
    with pytest.raises(ValueError, match="packed rows"):
        model(**inputs, past_key_values=DynamicCache())
    with torch.no_grad():
        cache = model(**inputs).past_key_values  # it makes one by itself, which may as well not be asked for
        with pytest.raises(ValueError, match="packed rows"):
            model(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache)


def test_texts_packed_by_their_positions_with_a_cache(model):
    with torch.no_grad():
        cache = model(input_ids=torch.arange(20, 28)[None], position_ids=torch.arange(8)[None] % 4).past_key_values
        with pytest.raises(ValueError, match="packed rows"):
            model(input_ids=torch.tensor([[30]]), past_key_values=cache)


def test_placeholders_without_their_images(model, encode):
    inputs = encode(ASKED, add_generation_prompt=True)
    del inputs["pixel_values"]
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="neither pixel_values nor vision_features"):
            call(**inputs)


def test_more_or_fewer_images_than_placeholders(model, encode):
    inputs = encode(ASKED)
    with pytest.raises(ValueError, match="2 images give 32"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1)})


def test_a_mask_of_the_callers_own(model, encode):
    inputs = encode(ASKED)
    length = inputs["input_ids"].shape[1]
    with pytest.raises(ValueError, match="which token sees which follows from token_type_ids"):
        model(**{**inputs, "attention_mask": torch.ones(1, 1, length, length)})


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention(model, name):
    with pytest.raises(ValueError, match=name):
        model.set_attn_implementation(name)


def test_an_unknown_policy():
    with pytest.raises(ValueError, match="unknown attention policy 'mutual'"):
        MutuaConfig(attention_policy="mutual")
