"""Messages that cannot be taken as they are, one row a mistake; `mutua chat`, which no input ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from chat_shapes import CHATML, PHI3
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import make_model, make_processor, picture
from typer.testing import Result
from what_users_read import Mistake, check, mutua, rows

from mutua.api import Answer
from mutua.data.collate import encode_prompts
from mutua.data.sample import Sample

USER: dict[str, Any] = {"role": "user", "content": "is it red?"}
REPLY: dict[str, Any] = {"role": "assistant", "content": "yes"}
TEXT: dict[str, Any] = {"type": "text", "text": "is it red?"}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"place": "here"}}}
TOOL = {"type": "function", "function": {"name": "look", "description": "looks", "parameters": {}}}


@cache
def processor() -> Any:
    return make_processor(make_model())


def said(*messages: Any, **options: Any) -> Callable[[Path], Any]:
    """These messages through the chat template, to tokens."""
    return lambda _: processor().apply_chat_template(list(messages), tokenize=True, return_dict=True, **options)


def of_user(*parts: Any, **options: Any) -> Callable[[Path], Any]:
    return said({"role": "user", "content": list(parts)}, **options)


def conversation(given: Any) -> Callable[[Path], Any]:
    return lambda _: processor().apply_chat_template(given, tokenize=True, return_dict=True)


def sample(*messages: Any, **fields: Any) -> Callable[[Path], Any]:
    return lambda _: Sample.model_validate({"id": "1", "messages": messages, **fields})


def evaluated(text: str | list[dict[str, Any]]) -> Callable[[Path], Any]:
    """The third of four samples of a file has this text, or these parts."""

    def do(place: Path) -> Result:
        lines = [
            {"id": str(n), "messages": [{**USER, "content": text if n == 3 else "a?"}, REPLY]} for n in range(1, 5)
        ]
        (place / "pets.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return mutua("eval", "-d", place / "pets.jsonl")

    return do


CONVERSATIONS = [
    Mistake("none", conversation([]), ("the conversation is empty", "{'role': 'user'")),
    Mistake(
        "none in a batch", conversation([[USER], []]), ("conversation 2: a conversation is a list", "not [] (list)")
    ),
    Mistake("a text", conversation("is it red?"), ("a conversation is a list of messages", "not 'is it red?' (str)")),
    Mistake("one message, no list", conversation(USER), ("a conversation is a list of messages", "(dict)")),
    Mistake("None", conversation(None), ("a conversation is a list of messages", "not None")),
    Mistake("a text among them", said(USER, "yes"), ("messages[1] is 'yes' (str), not a message",)),
    Mistake("a batch", conversation([[USER], [USER, {"role": "usr"}]]), ("conversation 2: messages[1] has the role",)),
]
ROLES = [
    Mistake("no role", said({"content": "hi"}), ("messages[0] has no role", "system, user or assistant")),
    Mistake("None", said({"role": None, "content": "hi"}), ("messages[0] has no role",)),
    Mistake("usr", said({**USER, "role": "usr"}), ("messages[0] has the role 'usr'", "system, user or assistant")),
    Mistake("of ShareGPT", said(USER, {**REPLY, "role": "gpt"}), ("messages[1] has the role 'gpt'",)),
    Mistake(
        "a tool without a place", said(USER, REPLY, {**USER, "role": "tool"}), ("messages[2] has the role 'tool'",)
    ),
    Mistake("a number", said({**USER, "role": 1}), ("messages[0] has the role 1",)),
]
CONTENT = [
    Mistake("none", said({"role": "user"}), ("messages[0] (user) has no content", "give text or a list of parts")),
    Mistake("None", said(USER, {**REPLY, "content": None}), ("messages[1] (assistant) has no content",)),
    Mistake("no parts", of_user(), ("messages[0] (user) has no content", "not [] (list)")),
    Mistake("a number", said({**USER, "content": 5}), ("messages[0] (user) has no content", "not 5 (int)")),
    Mistake("one part, no list", said({**USER, "content": TEXT}), ("messages[0] (user) has no content", "(dict)")),
    Mistake("a string as part", of_user("is it red?"), ("messages[0].content[0] is 'is it red?' (str), not a part",)),
    Mistake("a part without type", of_user({"text": "hi"}), ("messages[0].content[0] is a part without a type",)),
    Mistake(
        "a video",
        of_user(TEXT, {"type": "video", "video": "a.mp4"}),
        ("messages[0].content[1] is a part of type 'video': this model's parts are text and image",),
    ),
    Mistake("audio", of_user({"type": "audio", "path": "a.wav"}), ("content[0] is a part of type 'audio'",)),
    Mistake("of another interface", of_user({"type": "input_text", "text": "a"}), ("a part of type 'input_text'",)),
    Mistake(
        "a text of None", of_user({"type": "text", "text": None}), ("content[0] is a text part whose text is None",)
    ),
    Mistake("a text of a number", of_user({"type": "text", "text": 5}), ("a text part whose text is 5 (int)",)),
    Mistake("an image in a text", of_user({**TEXT, "image": "a.png"}), ("content[0] holds 'image' beside its text",)),
    Mistake("a text in an image", of_user({**TEXT, "type": "image"}), ("content[0] holds text beside its image",)),
    Mistake(
        "an image in a reply",
        said(USER, {**REPLY, "content": [{"type": "image", "image": picture(1)}]}),
        ("messages[1]: an image in an assistant message: images belong in user messages",),
    ),
    Mistake("control token", said(USER, {**REPLY, "content": "a <|user|>"}), ("messages[1]: the text", "'<|user|>'")),
    Mistake(
        "a placeholder in words", of_user(TEXT, {**TEXT, "text": "<image> what?"}), ("messages[0].content[1]: the",)
    ),
    Mistake(
        "a control token in two parts",
        of_user({**TEXT, "text": "a <|e"}, {**TEXT, "text": "nd|> b"}),
        ("messages[0], parts joined: the text 'a <|end|> b' holds the control token '<|end|>'",),
    ),
    Mistake(
        "a placeholder in two parts",
        of_user({**TEXT, "text": "<ima"}, {**TEXT, "text": "ge>"}),
        ("messages[0], parts joined", "'<image>'", "remove it"),
    ),
    Mistake(
        "a control token in two parts of a file",
        evaluated([{**TEXT, "text": "<|e"}, {**TEXT, "text": "nd|>"}]),
        ("pets.jsonl: sample '3': messages[0], parts joined", "'<|end|>'"),
    ),
    Mistake("half a character", of_user({**TEXT, "text": "a\ud800"}), ("content[0]: the text 'a\\ud800'", "UTF-8")),
    Mistake("a weight of a part", of_user({**TEXT, "weight": 0}), ("content[0] has 'weight', which says nothing to",)),
    Mistake("content of a part", of_user({**TEXT, "content": "no"}), ("content[0] has 'content'", "remove it")),
    Mistake(
        "a piece of an image",
        of_user({"type": "image", "image": picture(1), "bbox": [0, 0, 4, 4]}),
        ("messages[0].content[0] has 'bbox', which says nothing to this model",),
    ),
    Mistake(
        "OpenAI's detail",
        of_user({"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}}),
        ("messages[0].content[0] has 'detail', which says nothing to this model",),
    ),
    Mistake(
        "images in another order",
        of_user({"type": "image", "image": picture(1), "index": 1}, {"type": "image", "image": picture(2), "index": 0}),
        ("messages[0].content[0] is image 0 of the conversation, but its index is 1", "in the order of their parts"),
    ),
    Mistake("a key that is a number", said({**USER, 3: "a"}), ("messages[0] has 3, and the chat template has no",)),
    Mistake("far into a text", said({**USER, "content": "a" * 500 + "<|end|>"}), ("aaa<|end|>'", "remove it")),
]
WITHOUT_A_PLACE = [
    Mistake("tools", said(USER, tools=[TOOL]), ("tools came, and the chat template has no place for them",)),
    Mistake(
        "documents", said(USER, documents=[{"text": "a"}]), ("documents came, and the chat template has no place",)
    ),
    Mistake("no mask", said(USER, return_attention_mask=False), ("return_attention_mask=False", "leave it out")),
    Mistake("tool calls", said(USER, {**REPLY, "tool_calls": [CALL]}), ("messages[1] has 'tool_calls', and the chat",)),
    Mistake(
        "nothing but tool calls",
        said(USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}),
        ("messages[1] has 'tool_calls', and the chat template has no place for it", "remove it"),
    ),
    Mistake("reasoning", said(USER, {**REPLY, "reasoning_content": "hm"}), ("messages[1] has 'reasoning_content'",)),
    Mistake("images beside content", said({**USER, "images": ["a.png"]}), ("messages[0] has 'images', and the chat",)),
    Mistake(
        "a control token in a tool",
        said(USER, tools=[{**TOOL, "type": "<|end|>"}], chat_template=CHATML + "{% if tools %}{% endif %}"),
        ("tools: the text '<|end|>' holds the control token",),
    ),
]
IMAGES = [
    Mistake("none", of_user(TEXT, {"type": "image"}), ("messages[0].content[1] is an image part without an image",)),
    Mistake(
        "the second without",
        conversation([[USER], [{**USER, "content": [{"type": "image", "image": picture(1)}, {"type": "image"}]}]]),
        ("conversation 2: messages[0].content[1] is an image part without an image", "images=..."),
    ),
    Mistake(
        "twice",
        of_user({"type": "image", "image": picture(1)}, images=[picture(1)]),
        ("images came apart (images=...) and in the image parts", "give each one once"),
    ),
    Mistake("too many apart", of_user({"type": "image"}, images=[picture(1)] * 2), ("[2] pictures came", "[1] placeh")),
    Mistake(
        "of another row",
        lambda _: processor().apply_chat_template(
            [[{"role": "user", "content": [{"type": "image"}]}]] * 2,
            tokenize=True,
            processor_kwargs={"images": [[picture(1), picture(2)], []]},
        ),
        ("[2, 0] pictures came for texts with [1, 1] placeholders",),
    ),
]
SAMPLES = [
    Mistake("role", sample({**USER, "role": "usr"}), ("messages.0.role", "'usr'")),
    Mistake("None as content", sample({**USER, "content": None}), ("messages.0.content", "Field required")),
    Mistake("None as text", sample({**USER, "content": [{"type": "text", "text": None}]}), ("text", "Field required")),
    Mistake("tool calls", sample(USER, {**REPLY, "tool_calls": [CALL]}), ("tool_calls", "Extra inputs")),
    Mistake(
        "a placeholder", evaluated("<image> a?"), ("pets.jsonl: sample '3': messages[0]", "'<image>'", "remove it")
    ),
    Mistake("a control token", evaluated("<|end|> a?"), ("pets.jsonl: sample '3': messages[0]", "'<|end|>'")),
]


@rows(CONVERSATIONS)
def test_conversations(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)


@rows(ROLES)
def test_roles(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)


@rows(CONTENT)
def test_content(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)


@rows(WITHOUT_A_PLACE)
def test_what_the_template_has_no_place_for(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)


@rows(IMAGES)
def test_images(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)


@rows(SAMPLES)
def test_samples(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)


def test_the_same_words_are_refused_as_text_alone() -> None:
    """Rendering without tokenizing checks as much; images may come later."""
    for messages in ([{**USER, "role": "usr"}], [{**USER, "content": [{"type": "video"}]}], []):
        with pytest.raises(ValueError, match=r"messages\[0\]|the conversation is empty"):
            processor().apply_chat_template(messages)
    text = processor().apply_chat_template([{**USER, "content": [{"type": "image"}, TEXT]}])
    assert processor()(images=picture(1), text=text)["pixel_values"] is not None


def test_images_apart_from_their_parts() -> None:
    """As TRL has them: the parts say where, `images` says what."""
    whole = of_user({"type": "image", "image": picture(1)}, TEXT)(Path())
    for images in (picture(1), [picture(1)], [[picture(1)]]):
        apart = of_user({"type": "image", "image": None}, {"image": None, **TEXT}, images=images)(Path())
        assert {name: str(value) for name, value in apart.items()} == {n: str(v) for n, v in whole.items()}


def test_tools_and_roles_that_a_template_names() -> None:
    """A template with places for them gets them, and replies of tool calls alone where it marks what is said."""
    template = (
        "{% for tool in tools or [] %}{{ tool['function']['name'] }} {% endfor %}{% for message in messages %}"
        "{{ '<|user|>' if message['role'] in ('user', 'tool') else '<|assistant|>' }}{% if message['role'] == "
        "'assistant' %}{% generation %}{{ message['content'] }}{% for call in message['tool_calls'] or [] %}"
        "{{ call['function']['name'] }}{% endfor %}{{ '<|end|>' }}{% endgeneration %}{% else %}"
        "{{ message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    )
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "a"},
        REPLY,
    ]
    text = processor().apply_chat_template(turns, chat_template=template, tools=[TOOL])
    assert text == "look <|user|>is it red?<|end|><|assistant|>look<|end|><|user|>a<|end|><|assistant|>yes<|end|>"


ABSENT = st.sets(st.sampled_from(["text", "image", "path", "url", "base64", "image_url", "video", "index"]))


@settings(deadline=None, max_examples=60)
@given(st.lists(ABSENT, min_size=3, max_size=3), st.sets(st.sampled_from(["name", "tool_calls", "weight"])), st.data())
def test_none_is_absent_wherever_it_stands(absent: list[set[str]], keys: set[str], data: Any) -> None:
    """As Arrow fills rows: every part and message with the keys of all others, in any order."""

    def filled(given: dict[str, Any], names: set[str]) -> dict[str, Any]:
        both = {**dict.fromkeys(names), **given}
        return {key: both[key] for key in data.draw(st.permutations(sorted(both)))}

    plain = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, TEXT]}, REPLY]
    parts = [filled(part, names) for part, names in zip(plain[0]["content"], absent, strict=False)]
    arrow = [filled({**plain[0], "content": parts}, keys), filled(REPLY, keys)]
    for template in (None, PHI3):
        expected, got = (said(*chat, chat_template=template)(Path()) for chat in (plain, arrow))
        assert {name: str(value) for name, value in got.items()} == {n: str(v) for n, v in expected.items()}
    made = Sample.model_validate({"id": "1", "family": None, "source": None, "messages": arrow})
    assert made == Sample.model_validate({"id": "1", "messages": plain})
    encode_prompts([made], processor())


def talk(*lines: str | bytes, words: tuple[object, ...] = ()) -> Result:
    """`mutua chat` with these lines typed, and the last of them asks."""
    typed = b"\n".join(line.encode() if isinstance(line, str) else line for line in (*lines, "is it red?"))
    result = mutua("chat", *words, "--max-new-tokens", 2, stdin=typed + b"\n")
    assert result.exit_code == 0, repr(result.exception)
    assert len(result.stdout.strip().splitlines()) == 1, f"one answer, to the last line: {result.output}"
    return result


def typed(*lines: str | bytes) -> Callable[[Path], Any]:
    return lambda place: talk(*lines)


CHAT = [
    Mistake("a long /image", typed("/image " + "a" * 5000), ("so long a name (5,000 characters)",), goes_on=True),
    Mistake("a missing /image", typed("/image no.png"), ("file not found: no.png",), goes_on=True),
    Mistake("/image of nothing", typed("/image"), ("/image needs the path of a picture",), goes_on=True),
    Mistake("/image of a folder", typed("/image ."), (". is a folder",), goes_on=True),
    Mistake("/image of a device", typed("/image /dev/zero"), ("/dev/zero is a device",), goes_on=True),
    Mistake("NUL in /image", typed("/image a\0b"), ("no file can have the name 'a\\x00b'",), goes_on=True),
    Mistake("invalid UTF-8", typed(b"is it \xff red?"), ("is no valid text: type it in UTF-8",), goes_on=True),
    Mistake("invalid UTF-8 in /image", typed(b"/image \xff.png"), ("file not found:", ".png"), goes_on=True),
    Mistake("no such command", typed("/picture a.png"), ("no command /picture: there are /image PATH",), goes_on=True),
    Mistake("a control token", typed("is <|end|> it?"), ("holds the control token '<|end|>'",), goes_on=True),
    Mistake("a file name", typed("scene.png"), ("must be the question, but 'scene.png'",), goes_on=True),
    Mistake("/help", typed("/help"), ("/image PATH adds a picture", "Ctrl-C stops an answer"), goes_on=True),
    Mistake("/new without pictures", typed("/new"), ("a new conversation, with no picture",), goes_on=True),
    Mistake("empty lines", typed("", "  ", "\t"), (), goes_on=True),
]


@rows(CHAT)
def test_chat_goes_on(mistake: Mistake, tmp_path: Path) -> None:
    check(mistake, tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Any]]]:
    """The conversations that the model is asked to answer; it says ok to each, and to "stop" what Ctrl-C does."""
    conversations: list[list[dict[str, Any]]] = []

    used = []

    def reply(_model: Any, _processor: Any, messages: list[dict[str, Any]], streamer: Any, **_: Any) -> Answer:
        assert streamer not in used, "a streamer that was stopped still holds what it has not printed"
        used.append(streamer)
        conversations.append(messages)
        if messages[-1]["content"][-1]["text"] == "stop":
            raise KeyboardInterrupt
        if messages[-1]["content"][-1]["text"] == "too long":
            raise ValueError("beyond the model's 2,048 positions")
        print("ok")
        return Answer("ok", "stop", 2)

    monkeypatch.setattr("mutua.api.reply", reply)
    return conversations


def shape(messages: list[dict[str, Any]]) -> list[str]:
    return [" ".join(part.get("text", "image") for part in message["content"]) for message in messages]


def test_new_starts_over_with_the_first_pictures(asked: Any, tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    picture(1).save(first)
    picture(2, 40).save(second)
    result = mutua("chat", first, stdin=f"one\n/image {second}\ntwo\n/image {second}\n/new\nthree\n")
    assert [shape(messages) for messages in asked] == [
        ["image one"],
        ["image one", "ok", "image two"],
        ["image three"],
    ]
    notes = " ".join(result.stderr.split())
    assert f"added {second} (40 x 40); pictures in your next message: 1" in notes
    assert f"a new conversation, with {first}" in notes


def test_ctrl_c_stops_one_answer(asked: Any) -> None:
    result = mutua("chat", stdin="one\nstop\ntwo\n")
    assert result.exit_code == 0
    assert [shape(messages) for messages in asked] == [["one"], ["one", "ok", "stop"], ["one", "ok", "two"]]
    assert "stopped; the question and the answer so far are left out" in result.stderr


def test_what_the_model_refuses_is_left_out(asked: Any) -> None:
    result = mutua("chat", stdin="one\ntoo long\ntwo\n")
    assert "beyond the model's 2,048 positions" in result.stderr
    assert shape(asked[-1]) == ["one", "ok", "two"]


def test_the_end_of_the_input_ends_quietly(asked: Any) -> None:
    for stdin in ("", "one", "one\n/quit\ntwo\n"):
        assert mutua("chat", stdin=stdin).exit_code == 0
    assert len(asked) == 2
    with mock.patch("sys.stdin", None):
        from mutua.cli.chat import _read

        assert _read() is None
