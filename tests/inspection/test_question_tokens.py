"""The tokens of a question are those of its text, whatever a template writes around it."""

from __future__ import annotations

import pytest
from chat_shapes import CHATML, PHI3, SHAPES, build_processor
from tiny_model import assistant, picture, user

from mutua.inspection.question_tokens import encode_asked, with_question

PICTURE = picture(1, 8)


def questions(conversations, processor, side="left") -> list[str]:
    asked = encode_asked(conversations, processor, side)
    return [
        processor.tokenizer.decode(ids[is_question]).strip()
        for ids, is_question in zip(asked.inputs["input_ids"], asked.is_question_BN, strict=True)
    ]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_template(shape, trim_offsets, side):
    processor = build_processor(trim_offsets)
    processor.chat_template = shape.template
    chats = [
        [user(PICTURE, "is it red?")],
        [user("is it red?"), assistant("yes"), user(PICTURE, "a")],  # a letter of many a header
        [user("user or assistant?", PICTURE)],
        [user("one", PICTURE, " two", PICTURE, " three")],
    ]
    expected = ["is it red?", "a", "user or assistant?", "one two three"]
    assert questions(chats, processor, side) == expected


def test_a_template_that_strips():
    processor = build_processor()
    processor.chat_template = PHI3.replace("message['content']", "message['content'] | trim")
    assert questions([[user(PICTURE, "  is it? ")], [user(" yes? ")]], processor) == ["is it?", "yes?"]


def test_what_is_refused():
    processor = build_processor()
    processor.chat_template = CHATML
    with pytest.raises(ValueError, match="the last message is from the assistant"):
        encode_asked([[user("one"), assistant("two")]], processor)
    processor.chat_template = CHATML.replace("message['content'] +", "message['content'] * 2 +")
    with pytest.raises(ValueError, match="does not say the question 'one' once"):
        encode_asked([[user("one")]], processor)


def test_another_question_in_the_same_place():
    asked = with_question([user("what?"), assistant("yes"), user("one ", PICTURE, "two")], "three")
    assert asked == [user("what?"), assistant("yes"), user("three", PICTURE)]
    assert with_question([user(PICTURE, "two")], "three") == [user(PICTURE, "three")]
    assert with_question([{"role": "user", "content": "two"}], "three") == [{"role": "user", "content": "three"}]
