"""Where the answer looks: from the right token, to the right patches, by the definition of attention rollout."""

from __future__ import annotations

import pytest
import torch
from tiny_model import assistant, make_model, make_processor, picture, user

from mutua.data.collate import encode
from mutua.data.sample import Sample
from mutua.inspection.attention_weights import AttentionWeights, attention_weights
from mutua.inspection.looks import looks_of, where_it_looks
from mutua.inspection.question_tokens import encode_asked

CHATS = [
    [user(picture(1), "is there a small blue square? what colour is the circle?")],
    [user(picture(2), "red?")],
    [user("before", picture(3), "red?"), assistant("yes, a red circle"), user("and is there a square?")],
]


@pytest.fixture(scope="module")
def model():
    return make_model("mma")


@pytest.fixture(scope="module")
def processor(model):
    return make_processor(model)


def test_the_maps_are_the_weights_of_the_last_token(model, processor):
    attention = attention_weights(model, encode_asked(CHATS[:1], processor).inputs)
    looks = where_it_looks(model, attention)
    heads_LNN = attention.weights_BLHNN[0].mean(1)
    places = (attention.roles.item_BN[0] == 0).nonzero()[:, 0].tolist()
    reached_NN = torch.eye(heads_LNN.shape[1])
    for weights_NN in heads_LNN:  # as the paper has it: from the first layer to the last
        reached_NN = (0.5 * weights_NN + 0.5 * torch.eye(len(weights_NN))) @ reached_NN
    for patch, place in enumerate(places):
        row, column = divmod(patch, 4)
        torch.testing.assert_close(looks.by_layer_BLSS[0, :, row, column], heads_LNN[:, -1, place])
        torch.testing.assert_close(looks.rollout_BSS[0, row, column], reached_NN[-1, place])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model, processor, side):
    together = where_it_looks(model, attention_weights(model, encode_asked(CHATS, processor, side).inputs))
    for row, chat in enumerate(CHATS):
        alone = looks_of(model, processor, [chat])
        torch.testing.assert_close(together.by_layer_BLSS[row], alone.by_layer_BLSS[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.rollout_BSS[row], alone.rollout_BSS[0], atol=1e-5, rtol=1e-4)


def test_an_answer_that_is_there_already_is_not_looked_from(model, processor):
    answered = Sample(id="1", messages=[*CHATS[0], assistant("yes, it is red")])
    said = where_it_looks(model, attention_weights(model, encode([answered], processor)))
    torch.testing.assert_close(said.rollout_BSS, looks_of(model, processor, CHATS[:1]).rollout_BSS)


def test_the_patch_with_the_object_is_where_it_should_be(model, processor):
    """A forward in which everything looks at one image token."""
    attention = attention_weights(model, encode_asked(CHATS, processor).inputs)
    weights = torch.zeros_like(attention.weights_BLHNN)
    for row, patch in enumerate((0, 6, 15)):
        weights[row, ..., (attention.roles.item_BN[row] == 0).nonzero()[patch, 0]] = 1.0
    looks = where_it_looks(model, AttentionWeights(weights, attention.roles))
    for maps in (looks.rollout_BSS, looks.by_layer_BLSS[:, 1]):
        assert [divmod(int(map_SS.argmax()), 4) for map_SS in maps] == [(0, 0), (1, 2), (3, 3)]


def test_a_resampler_keeps_no_grid():
    resampler = make_model("mma", connector="resampler")
    with pytest.raises(ValueError, match=r"'resampler' mixes all patches into each of its 5 image tokens.*'mlp'"):
        looks_of(resampler, make_processor(resampler), CHATS)


@pytest.mark.parametrize(
    ("chat", "count"), [([user("red?")], "no pictures"), ([user(picture(1), picture(2), "red?")], "2 pictures")]
)
def test_one_picture_is_looked_at(model, processor, chat, count):
    with pytest.raises(ValueError, match=f"holds {count}: where a model looks is shown for exactly one"):
        looks_of(model, processor, [chat])
