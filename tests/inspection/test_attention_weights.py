"""The weights are those of the rule's mask, and the model is afterwards what it was."""

from __future__ import annotations

import pytest
import torch
from tiny_model import assistant, make_model, make_processor, picture, user

from mutua.attention import POLICIES, allowed_mask, get_policy
from mutua.attention.abilities import ABILITIES
from mutua.inspection.attention_weights import attention_weights, image_to_question
from mutua.inspection.question_tokens import encode_asked
from mutua.roles import Modality

LONG, SHORT = "is there a small blue square? what colour is the circle?", "red?"
CHATS = [
    [user(picture(1), LONG)],
    [user(picture(2), SHORT)],
    [user("what?", picture(3)), assistant("yes"), user(picture(4), "describe the picture.")],
]


@pytest.fixture(scope="module")
def processor():
    return make_processor(make_model())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("policy", POLICIES)
def test_weights_are_shares_of_what_the_rule_shows(policy, side, processor):
    attention = attention_weights(make_model(policy), encode_asked(CHATS, processor, side).inputs)
    assert attention.weights_BLHNN.shape[:3] == (3, 2, 4)
    allowed_BNN = allowed_mask(get_policy(policy), attention.roles)
    assert attention.weights_BLHNN.masked_fill(allowed_BNN[:, None, None], 0.0).eq(0.0).all()
    seen = attention.weights_BLHNN.masked_select(allowed_BNN[:, None, None])
    assert seen.gt(0.0).all()
    sums_BLHN = attention.weights_BLHNN.sum(-1)
    is_token_BN = attention.roles.is_token_BN[:, None, None].expand_as(sums_BLHN)
    torch.testing.assert_close(sums_BLHN[is_token_BN], torch.ones(int(is_token_BN.sum())))
    assert sums_BLHN[~is_token_BN].eq(0.0).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side, processor):
    model = make_model("mma")
    asked = encode_asked(CHATS, processor, side)
    together = attention_weights(model, asked.inputs)
    shares = image_to_question(together, asked.is_question_BN)
    for row, chat in enumerate(CHATS):
        is_token = together.roles.is_token_BN[row]
        alone = encode_asked([chat], processor)
        weights = attention_weights(model, alone.inputs)
        of_row = together.weights_BLHNN[row][..., is_token, :][..., is_token]
        torch.testing.assert_close(of_row, weights.weights_BLHNN[0], atol=1e-5, rtol=1e-4)
        share = image_to_question(weights, alone.is_question_BN)[0]
        torch.testing.assert_close(shares[row], share, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("policy", POLICIES)
def test_images_look_at_the_question_where_the_policy_lets_them(policy, processor):
    asked = encode_asked(CHATS, processor)
    attention = attention_weights(make_model(policy), asked.inputs)
    shares_BLH = image_to_question(attention, asked.is_question_BN)
    if (Modality.IMAGE, Modality.TEXT) in get_policy(policy).looks_ahead:
        assert shares_BLH.gt(0.0).all()
    else:
        assert shares_BLH.eq(0.0).all()
    # Once more token by token: the second picture of the last chat is the one that stands beside the question.
    roles, weights_LHNN = attention.roles, attention.weights_BLHNN[2]
    places = (roles.item_BN[2] == 1).nonzero()[:, 0].tolist()
    words = asked.is_question_BN[2].nonzero()[:, 0].tolist()
    expected = sum(weights_LHNN[..., q, k] for q in places for k in words) / len(places)
    torch.testing.assert_close(shares_BLH[2], expected)


def test_a_question_before_the_picture_is_seen_under_causal_attention(processor):
    asked = encode_asked([[user(LONG, picture(1))]], processor)
    assert image_to_question(attention_weights(make_model("causal"), asked.inputs), asked.is_question_BN).gt(0.0).all()


@pytest.mark.parametrize("backend", ABILITIES)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_afterwards_what_it_was(backend, training, processor):
    model = make_model("mma").train(training)
    model.set_attn_implementation(backend)
    inputs = encode_asked(CHATS[:1], processor).inputs
    before = backends(model)
    for broken in (False, True):
        if broken:
            with pytest.raises(ValueError, match="token_type_ids has shape"):
                attention_weights(model, {**inputs, "token_type_ids": inputs["token_type_ids"][:, 1:]})
        else:
            attention_weights(model, inputs)
        assert backends(model) == before
        assert model.training is training


def backends(model) -> list[str]:
    return [
        part.config._attn_implementation
        for part in (model, model.model, model.model.language_model, model.model.vision_tower)
    ]


def test_what_is_refused(processor):
    model, inputs = make_model("mma"), encode_asked(CHATS[:1], processor).inputs
    with pytest.raises(ValueError, match="has no token_type_ids"):
        attention_weights(model, {name: tensor for name, tensor in inputs.items() if name != "token_type_ids"})
    asked = encode_asked([*CHATS[:1], [user(SHORT)]], processor)
    with pytest.raises(ValueError, match="conversation 2 of 2 has no picture beside its question"):
        image_to_question(attention_weights(model, asked.inputs), asked.is_question_BN)
    model.model.connector.down.weight.data[:] = 3e38  # a number still, but no sum of such is
    with pytest.raises(ValueError, match="not finite"):
        attention_weights(model, inputs)
