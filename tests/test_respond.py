"""One way to answer: batches change nothing, and the limit on new tokens is nobody's expected answer."""

from __future__ import annotations

import pytest
from tiny_model import picture, user

from mutua.api import reply
from mutua.data.readers import Scenes
from mutua.evaluation.accuracy import evaluate
from mutua.respond import Answer, length, respond

TALKS = [
    [user(picture(1), "what colour is the circle?")],
    [user("is there a small blue square?")],
    [user(picture(2), picture(3), "describe the picture.")],
    [{"role": "system", "content": "be short"}, user("yes")],
]


def test_batches_change_no_answer_and_come_back_in_order(model, processor):
    alone = [reply(model, processor, talk, max_new_tokens=6) for talk in TALKS]
    done: list[int] = []
    together = respond(model, processor, TALKS, max_new_tokens=6, batch_size=3, progress=done.append)
    assert together == alone
    assert done == [3, 4]
    assert all(answer.finish_reason == "length" and answer.tokens == 6 for answer in alone if answer.tokens >= 6)


def test_a_row_that_ends_before_its_batch_has_its_own_end(model, processor):
    """Whatever the model says third ends a reply here: rows that say it at other places go on beside it."""
    said = model.generate(
        **processor.apply_chat_template(
            TALKS[0], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ),
        max_new_tokens=6,
        do_sample=False,
    )[0, -6:].tolist()
    end = said[2]
    first = respond(model, processor, TALKS, max_new_tokens=6, eos_token_id=end, pad_token_id=0)[0]
    assert (first.finish_reason, first.tokens) == ("stop", said.index(end) + 1)


def test_length_counts_pictures_then_letters():
    assert [length(talk) for talk in TALKS] == [(1, 26), (0, 29), (2, 21), (0, 11)]


def test_the_expected_answer_sets_no_limit(model, processor, monkeypatch):
    limits = []

    def respond_nothing(model, processor, conversations, *, max_new_tokens, **_):
        limits.append(max_new_tokens)
        return [Answer("red", "length", max_new_tokens) for _ in conversations]

    monkeypatch.setattr("mutua.evaluation.accuracy.respond", respond_nothing)
    sample = Scenes("test", 1)[0]
    long = sample.model_validate(
        {**sample.model_dump(), "messages": [*sample.messages[:-1], {"role": "assistant", "content": "red " * 99}]}
    )
    assert evaluate(model, processor, [long]).cut == 1
    evaluate(model, processor, [sample], max_new_tokens=3)
    assert limits == [16, 3]


def test_an_error_names_the_conversation(model, processor):
    wrong = [user(processor.image_token)]
    with pytest.raises(ValueError, match="second: "):
        respond(model, processor, [TALKS[1], wrong], max_new_tokens=1, names=["first", "second"])
