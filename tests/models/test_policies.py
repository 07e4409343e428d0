"""Every policy through the whole model: the same numbers however they are computed, no look at what is to be said."""

from __future__ import annotations

import pytest
import torch
from tiny_model import assistant, make_model, picture, user

from mutua.attention import POLICIES
from mutua.roles import TokenRoles

CHATS = [
    [user(picture(1), "is it red? is it red? is it red?")],
    [user(picture(3), picture(4), "and now?")],
    [user(picture(5), "what is it?"), assistant("a circle"), user(picture(6), "and this one?")],
    [user("no picture at all")],
]
GREEDY = {"min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module", params=POLICIES)
def model(request):
    return make_model(request.param)


def said(model, inputs: dict, **options: object) -> list[list[int]]:
    return model.generate(**inputs, **GREEDY, **options)[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_cached_uncached_static_batched_and_single_agree(model, encode, options):
    together = said(model, encode(CHATS, add_generation_prompt=True), **options)
    assert together == [said(model, encode(chat, add_generation_prompt=True))[0] for chat in CHATS]
    # A single row has no padding, so Transformers drops its mask.
    assert together == [said(model, encode(chat, add_generation_prompt=True), **options)[0] for chat in CHATS]


def test_guessed_tokens_are_never_part_of_the_prompt(model, encode, monkeypatch):
    """Assisted decoding sends guesses along with the prompt; an image that saw them would remember wrong ones."""
    inputs = encode(CHATS[2], add_generation_prompt=True)  # the first reply is what gets guessed
    prompt, seen = inputs["input_ids"].shape[1], []
    forward = type(model.model).forward

    def spy(self, *args, **kwargs):
        seen.append(kwargs["token_type_ids"])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", spy)
    guessed = said(model, inputs, prompt_lookup_num_tokens=3)
    first = TokenRoles.from_codes(seen[0])
    assert first.is_response_BN[0, prompt:].all()
    assert torch.equal(seen[0][:, :prompt], inputs["token_type_ids"])
    # A single token comes without a code: it is a response.
    assert all(codes is None or TokenRoles.from_codes(codes).is_response_BN.all() for codes in seen[1:])
    assert seen[0].shape[1] > prompt, "nothing was guessed, so this tests nothing"
    assert guessed == said(model, inputs)


def test_a_response_moves_nothing_before_it(model, encode):
    inputs = encode([*CHATS[2], assistant("no it is")])
    roles = TokenRoles.from_codes(inputs["token_type_ids"])

    def states(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model.model(**{**inputs, "input_ids": ids}).last_hidden_state[0]

    before = states(inputs["input_ids"])
    for index in roles.is_response_BN[0].nonzero()[:, 0].tolist():
        ids = inputs["input_ids"].clone()
        ids[0, index] = 40 if int(ids[0, index]) != 40 else 41
        assert (states(ids)[:index] - before[:index]).abs().max() < 1e-5
