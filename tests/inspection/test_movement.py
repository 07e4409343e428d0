"""Image states move with the question exactly where the policy lets them see it."""

from __future__ import annotations

import pytest
import torch
from tiny_model import make_model, make_processor, picture, user

from mutua.attention import POLICIES, get_policy
from mutua.inspection.movement import movement
from mutua.roles import Modality

QUESTIONS = ["red?", "is there a small blue square? what colour is the circle?", "describe the picture."]
OTHERS = [*QUESTIONS[1:], QUESTIONS[0]]
CHATS = [[user(picture(seed), question)] for seed, question in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def processor():
    return make_processor(make_model())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("policy", POLICIES)
def test_what_sees_nothing_does_not_move_at_all(policy, dtype, processor):
    model = make_model(policy).to(dtype)
    moved = movement(model, processor, CHATS, OTHERS)
    assert moved.cosine_BS.shape == moved.relative_BS.shape == (3, 3)  # rows; embeddings and two layers
    for distance_BS in (moved.cosine_BS, moved.relative_BS):
        assert distance_BS[:, 0].eq(0.0).all()
        if (Modality.IMAGE, Modality.TEXT) in get_policy(policy).looks_ahead:
            assert distance_BS[:, 1:].gt(1e-4).all()
        else:
            assert distance_BS.eq(0.0).all()


def test_a_question_before_the_picture_moves_it_under_causal_attention(processor):
    chats = [[user(question, picture(1))] for question in QUESTIONS]
    assert movement(make_model("causal"), processor, chats, OTHERS).relative_BS[:, 1:].gt(0.0).all()


def test_the_distances_are_what_they_are_called(processor):
    model = make_model("mma")
    moved = movement(model, processor, CHATS, OTHERS)
    for row, (chat, other) in enumerate(zip(CHATS, OTHERS, strict=True)):
        alone = movement(model, processor, [chat], [other])
        torch.testing.assert_close(moved.cosine_BS[row], alone.cosine_BS[0], atol=1e-6, rtol=1e-4)
        first_IST, second_IST = (image_states(model, processor, question, row) for question in (chat, other))
        cosine_IS = 1 - torch.cosine_similarity(first_IST, second_IST, dim=-1)
        torch.testing.assert_close(moved.cosine_BS[row], cosine_IS.mean(0), atol=1e-5, rtol=1e-4)
        lengths_IS = (first_IST.norm(dim=-1) + second_IST.norm(dim=-1)) / 2
        relative_IS = (first_IST - second_IST).norm(dim=-1) / lengths_IS
        torch.testing.assert_close(moved.relative_BS[row], relative_IS.mean(0), atol=1e-5, rtol=1e-4)


def image_states(model, processor, question, row):
    chat = question if isinstance(question, list) else [user(picture(row), question)]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    is_image_N = inputs["input_ids"][0] == processor.image_token_id
    return torch.stack(states, 2)[0][is_image_N].double()


def test_what_is_refused(processor):
    model = make_model("mma")
    with pytest.raises(ValueError, match="no conversations"):
        movement(model, processor, [], [])
    with pytest.raises(ValueError, match="conversation 2 of 2 has no picture"):
        movement(model, processor, [CHATS[0], [user("red?")]], OTHERS[:2])
