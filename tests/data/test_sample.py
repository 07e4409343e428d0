"""The sample schema: what it accepts, what it hands out, and what it says when it refuses."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from mutua.data.sample import ImagePart, Message, Sample, TextPart

USER = {"role": "user", "content": [{"type": "image", "image": "cat.png"}, {"type": "text", "text": "what is it?"}]}
REPLY = {"role": "assistant", "content": "a cat"}
SYSTEM = {"role": "system", "content": "be brief"}


def sample(*messages: Any, **fields: Any) -> Sample:
    return Sample.model_validate({"id": "1", "messages": messages, **fields})


def test_string_is_short_for_one_text_part() -> None:
    assert sample(USER, REPLY).messages[1] == Message(role="assistant", content=(TextPart(text="a cat"),))


def test_chat_is_the_transformers_format() -> None:
    made = sample(SYSTEM, USER, REPLY)
    assert made.chat() == [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        USER,
        {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
    ]
    assert made.prompt() == made.chat()[:2]
    assert (made.question, made.answer) == ("what is it?", "a cat")


def test_image_in_memory_is_passed_through() -> None:
    picture = Image.new("RGB", (2, 2))
    made = sample(Message(role="user", content=(ImagePart(image=picture), TextPart(text="what is it?"))))
    assert made.chat()[0]["content"][0]["image"] is picture


def test_several_turns_end_in_the_final_answer() -> None:
    more = {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "yes"}
    made = sample(USER, REPLY, *more)
    assert (made.question, made.answer) == ("sure?", "yes")
    assert len(made.prompt()) == 3


def test_no_answer() -> None:
    made = sample(USER, id="7")
    assert made.prompt() == made.chat()
    with pytest.raises(ValueError, match="sample '7' has no answer: its last message is from the user"):
        _ = made.answer


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "at least one user message is needed"),
        ([SYSTEM], "at least one user message is needed"),
        ([REPLY], "message 0 is 'assistant' where 'user' is due"),
        ([SYSTEM, REPLY], "message 1 is 'assistant' where 'user' is due"),
        ([USER, USER], "message 1 is 'user' where 'assistant' is due"),
        ([USER, SYSTEM], "message 1 is 'system' where 'assistant' is due"),
        ([{"role": "user", "content": " \n"}], "empty text: write something or leave the part out"),
        ([{"role": "user", "content": []}], "user message with no content"),
        ([USER, {**USER, "role": "assistant"}], "image in the assistant message: images belong in user messages"),
        ([{**USER, "role": "system"}, USER], "image in the system message: images belong in user messages"),
        (
            [{"role": "user", "content": [{"type": "image", "image": "https://a.b/c.png"}]}],
            "is a URL, and no network is used: download it",
        ),
        ([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}], "'video' .*does not match any"),
        ([{**USER, "name": "ann"}], "Extra inputs are not permitted"),
    ],
)
def test_refusals(messages: list[Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        sample(*messages)


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        sample(USER).family = "other"


def test_pickles() -> None:
    made = sample(USER, REPLY, family="naming", source="pets")
    assert pickle.loads(pickle.dumps(made)) == made
    assert isinstance(made.messages[0].content[0], ImagePart)
    assert made.messages[0].content[0].image == Path("cat.png")
