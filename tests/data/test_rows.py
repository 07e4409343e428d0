"""Rows of other trainers as samples: the forms that are taken, where pictures go, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mutua.data.rows import sample_from_row
from mutua.data.sample import Sample, SampleError, TextPart

RED, BLUE = Image.new("RGB", (4, 3), "red"), Image.new("RGB", (4, 3), "blue")
ASKED, SAID = {"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "a cat"}


def turns(sample: Sample) -> list[tuple[str, ...]]:
    """Role and parts of every message; a picture is its path, or its colour."""

    def name(image: Any) -> str:
        return (
            str(image) if isinstance(image, Path) else {(255, 0, 0): "red", (0, 0, 255): "blue"}[image.getpixel((0, 0))]
        )

    return [
        (
            message.role,
            *(part.text if isinstance(part, TextPart) else f"[{name(part.image)}]" for part in message.content),
        )
        for message in sample.messages
    ]


def one_turn(*asked: str) -> list[tuple[str, ...]]:
    return [("user", *asked), ("assistant", "a cat")]


PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "what is it?", "image": None}]
HUMAN, GPT = {"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "a cat"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # TRL: plain contents, content parts as Arrow fills them, prompt and completion
        ({"messages": [ASKED, SAID]}, one_turn("what is it?")),
        ({"messages": [ASKED, SAID], "images": [RED, BLUE]}, one_turn("[red]", "[blue]", "what is it?")),
        ({"messages": [ASKED, SAID], "image": RED}, one_turn("[red]", "what is it?")),
        ({"messages": [{"role": "user", "content": PARTS}, SAID], "images": [RED]}, one_turn("[red]", "what is it?")),
        (
            {"messages": [{"role": "user", "content": PARTS[::-1]}, SAID], "images": (RED,)},
            one_turn("what is it?", "[red]"),
        ),
        ({"prompt": [ASKED], "completion": [SAID], "images": [RED]}, one_turn("[red]", "what is it?")),
        ({"prompt": "what is it?", "completion": "a cat", "image": RED}, one_turn("[red]", "what is it?")),
        ({"prompt": [ASKED], "completion": "a cat"}, one_turn("what is it?")),
        # `datasets` without its decoding, and pictures inside the parts
        ({"messages": [ASKED, SAID], "image": {"bytes": None, "path": "a.png"}}, one_turn("[a.png]", "what is it?")),
        (
            {
                "messages": [{"role": "user", "content": [{"type": "image", "image": RED}, PARTS[1]]}, SAID],
                "images": [],
            },
            one_turn("[red]", "what is it?"),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}, SAID]},
            one_turn("[a.png]"),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "image": RED, "text": "", "index": None}]},
                    SAID,
                ]
            },
            one_turn("[red]"),
        ),
        # LLaVA, ShareGPT
        ({"conversations": [HUMAN, GPT], "image": "a.png"}, one_turn("[a.png]", "what is it?")),
        ({"conversations": [HUMAN, GPT], "image": ["a.png"]}, one_turn("[a.png]", "what is it?")),
        (
            {"conversations": [{**HUMAN, "value": "is it?\n<image>"}, GPT], "image": "a.png"},
            one_turn("is it?", "[a.png]"),
        ),
        (
            {"conversations": [{**HUMAN, "value": " <image> or\n<image>\n?\n"}, GPT], "images": ["a.png", "b.png"]},
            one_turn("[a.png]", "or", "[b.png]", "?"),
        ),
        (
            {"conversations": [{"from": "system", "value": "be brief"}, HUMAN, GPT], "image": RED},
            [("system", "be brief"), *one_turn("[red]", "what is it?")],
        ),
        ({"conversations": [ASKED, SAID], "system": "be brief"}, [("system", "be brief"), *one_turn("what is it?")]),
        # ms-swift
        (
            {"messages": [{**ASKED, "content": "<image><image>same?"}, SAID], "images": ["a.png", {"path": "b.png"}]},
            one_turn("[a.png]", "[b.png]", "same?"),
        ),
        (
            {"query": "and<image>?", "response": "a cat", "history": [["hi", "ho"]], "images": [RED]},
            [("user", "hi"), ("assistant", "ho"), *one_turn("and", "[red]", "?")],
        ),
    ],
)
def test_forms_that_are_taken(row: dict[str, Any], expected: list[tuple[str, ...]]) -> None:
    assert turns(sample_from_row(row, "1")) == expected


def test_a_text_without_marks_stays_as_it_is() -> None:
    assert sample_from_row({"messages": [{**ASKED, "content": " \nwhat? "}, SAID]}, "1").question == " \nwhat? "


def test_later_turns_have_their_own_pictures() -> None:
    row = {"conversations": [HUMAN, GPT, {**HUMAN, "value": "and <image>?"}, GPT], "images": [RED, BLUE]}
    assert turns(sample_from_row(row, "1")) == [*one_turn("[red]", "what is it?"), *one_turn("and ", "[blue]", "?")]


def test_id_family_and_source() -> None:
    sample = sample_from_row({"messages": [ASKED, SAID]}, "3", "pets.json")
    assert (sample.id, sample.family, sample.source) == ("3", "", "pets.json")
    row = {"id": 0, "family": "naming", "source": "pets", "split": "train", "width": 3, "messages": [ASKED, SAID]}
    sample = sample_from_row(row, "3", "pets.json")
    assert (sample.id, sample.family, sample.source) == ("0", "naming", "pets")


def test_the_row_stays_as_it_is() -> None:
    row = {"messages": [{"role": "user", "content": [dict(part) for part in PARTS]}, dict(SAID)], "images": [RED]}
    sample_from_row(row, "1")
    assert row == {"messages": [{"role": "user", "content": PARTS}, SAID], "images": [RED]}


def parts(*given: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(given)}, SAID]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "a row is a mapping of columns"),
        ({"question": "what?"}, "no conversation in its columns question: it is looked for in messages, conversations"),
        ({"messages": [], "image": RED}, "no conversation in its columns image"),
        ({"messages": [ASKED], "prompt": "hi"}, "messages and prompt hold a conversation each: remove the one"),
        ({"messages": [ASKED], "tools": "[]"}, "tools: a sample has no place for it (got '[]'): remove the column"),
        ({"messages": [ASKED], "videos": ["a.mp4"]}, "videos: a sample has no place for it"),
        ({"messages": "hi"}, "messages: is a list, not 'hi'"),
        ({"messages": ["hi"]}, "messages.0: a message is a mapping"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role: None is no speaker: use one of system, user"),
        ({"messages": [{"role": "usr", "content": "hi"}]}, "messages.0.role: 'usr' is no speaker"),
        ({"conversations": [{"from": "tool", "value": "hi"}]}, "conversations.0.from: 'tool' is no speaker"),
        ({"messages": [ASKED, {"role": "assistant", "content": ""}]}, "messages.1.content: is missing or empty"),
        ({"messages": [ASKED, {"role": "assistant", "content": " "}]}, "messages.1.content: empty text"),
        (
            {"messages": [ASKED, {**SAID, "tool_calls": [1]}]},
            "messages.1.tool_calls: a message has no place for it (got [1])",
        ),
        ({"messages": [ASKED, {**SAID, "content": 3}]}, "messages.1.content: is a text or a list of parts, not 3"),
        ({"messages": [SAID, ASKED]}, "messages: message 0 is 'assistant' where 'user' is due"),
        ({"conversations": [GPT]}, "conversations: message 0 is 'assistant' where 'user' is due"),
        (parts("hi"), "messages.0.content.0: a part is a mapping"),
        (parts({"type": "video"}), "messages.0.content.0: Input tag 'video'"),
        (
            parts({"type": "text", "text": "a", "audio": "b"}),
            "messages.0.content.0.audio: Extra inputs are not permitted",
        ),
        (
            parts({"type": "image", "image": "a", "url": "b"}),
            "messages.0.content.0: is one image, but holds image and url",
        ),
        (parts({"type": "image"}), "messages.0.content.0: 1 place for a picture"),
        ({**parts({"type": "image", "image": RED}), "images": [RED]}, "0 places for a picture"),
        ({"conversations": [HUMAN, GPT]}, "conversations.0.value: 1 place for a picture (marks <image>,"),
        ({"conversations": [HUMAN, GPT], "images": [RED, BLUE]}, "2 pictures in images or image: give each place"),
        ({"messages": [ASKED], "images": [RED], "image": RED}, "images and image hold pictures each"),
        ({"messages": [ASKED], "images": [RED, None]}, "images.1: is no picture (got None)"),
        ({"messages": [ASKED], "image": "https://a.b/c.png"}, "image: https://a.b/c.png is a URL, and no network"),
        (
            {"conversations": [HUMAN, GPT], "image": "https://a.b/c.png"},
            "conversations.0.value (image): https://a.b/c.png is a URL",
        ),
        (
            {"messages": [ASKED, {**SAID, "content": "<image>"}], "image": RED},
            "messages.1: image in the assistant message",
        ),
        (  # TRL learns the completion alone; of a sample every reply is learned
            {"prompt": [ASKED, SAID, ASKED], "completion": [SAID]},
            "prompt.1: is a reply within the prompt, of which nothing is to be learned",
        ),
        ({"query": "hi", "history": ["hi"]}, "history.0: is a query and its response, not 'hi'"),
        ({"messages": [ASKED], "family": 3}, "family: Input should be a valid string (got 3)"),
    ],
)
def test_refusals(row: Any, message: str) -> None:
    with pytest.raises(SampleError) as error:
        sample_from_row(row, "pets.json:3")
    assert str(error.value).startswith("pets.json:3: ")
    assert message in str(error.value)
    assert error.value.sample_id == "pets.json:3"
