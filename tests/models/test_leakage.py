"""The rule by perturbation: what must be invisible moves nothing, what must be seen moves something."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_model import assistant, make_model, picture, user

from mutua.roles import Modality, TokenRoles

IMAGES = [picture(1), picture(2)]


@pytest.fixture(scope="module")
def model(policy):
    return make_model(policy)


def states(model, inputs: dict, layer: int = -1) -> torch.Tensor:
    with torch.no_grad():
        return model.model(**inputs, output_hidden_states=True).hidden_states[layer][0]


def moved(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Which tokens moved: bool (N,)."""
    return (before - after).abs().amax(-1) > 1e-5


def swap(inputs: dict, index: int) -> dict:
    """The same inputs with another token at `index`."""
    ids = inputs["input_ids"].clone()
    ids[0, index] = 40 if int(ids[0, index]) != 40 else 41
    return {**inputs, "input_ids": ids}


@pytest.fixture
def chat(encode):
    turns = [user(IMAGES[0], "is it red?"), assistant("yes"), user("so", IMAGES[1], "and this?"), assistant("no it is")]
    return encode(turns)


def test_the_question_moves_the_image_under_mma_only(model, chat, policy):
    roles = TokenRoles.from_codes(chat["token_type_ids"])
    is_image = roles.modality_BN[0] == Modality.IMAGE
    is_text = roles.modality_BN[0] == Modality.TEXT
    for block in (0, 1):
        in_block = roles.block_BN[0] == block
        image = in_block & is_image
        for index in (in_block & is_text).nonzero()[:, 0].tolist():
            if index < int(image.nonzero()[0]):
                continue  # text before the image is visible to it under every policy
            change = moved(states(model, chat), states(model, swap(chat, index)))
            assert bool(change[image].all()) is (policy == "mma")
            assert not change[~in_block][: int(in_block.nonzero()[0])].any(), "an earlier turn moved"


def test_a_response_token_moves_nothing_before_it(model, chat):
    roles = TokenRoles.from_codes(chat["token_type_ids"])
    before = states(model, chat)
    responses = roles.is_response_BN[0].nonzero()[:, 0].tolist()
    assert len(responses) >= 4
    for index in responses:
        change = moved(before, states(model, swap(chat, index)))
        assert not change[:index].any()
        assert change[index:].all()


def test_text_stays_causal(model, chat):
    """A later question token moves no earlier text token of its block in one layer (by way of an image, in two)."""
    roles = TokenRoles.from_codes(chat["token_type_ids"])
    text = ((roles.block_BN[0] == 0) & (roles.modality_BN[0] == Modality.TEXT)).nonzero()[:, 0]
    assert len(text) > 5
    for place, index in enumerate(text.tolist()):
        change = moved(states(model, chat, layer=1), states(model, swap(chat, index), layer=1))
        assert not change[text[:place]].any()
        assert change[index]


def test_another_document_moves_nothing(model, encode):
    first, second = encode([user(IMAGES[0], "is it red?")]), encode([user(IMAGES[1], "is it blue?"), assistant("no")])
    roles = TokenRoles.from_codes(second["token_type_ids"])
    second_codes = replace(roles, document_BN=roles.document_BN + 1).to_codes()
    split = first["input_ids"].shape[1]
    packed = {
        "input_ids": torch.cat([first["input_ids"], second["input_ids"]], 1),
        "token_type_ids": torch.cat([first["token_type_ids"], second_codes], 1),
        "pixel_values": torch.cat([first["pixel_values"], second["pixel_values"]]),
    }
    before = states(model, packed)
    for index in range(packed["input_ids"].shape[1]):
        if int(packed["input_ids"][0, index]) == model.config.image_token_id:
            continue
        change = moved(before, states(model, swap(packed, index)))
        assert not (change[split:] if index < split else change[:split]).any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_nothing(model, encode, side):
    batch = encode([[user(IMAGES[0], "is it red?")], [user(IMAGES[1], "a much longer question, is it not?")]], side)
    pads = (batch["attention_mask"][0] == 0).nonzero()[:, 0].tolist()
    before = states(model, batch)
    real = batch["attention_mask"][0].bool()
    assert pads
    for index in pads:
        assert not moved(before, states(model, swap(batch, index)))[real].any()
