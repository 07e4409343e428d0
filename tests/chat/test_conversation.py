"""Renderings that are remembered are those that would be made anew."""

from __future__ import annotations

from typing import Any

import pytest
from chat_shapes import BARE_QUESTIONS, CLOCK, PARTS, SHAPES, TALK
from tiny_model import assistant, picture, user

from mutua.chat import conversation
from mutua.chat.conversation import render_conversation
from mutua.chat.messages import check_messages
from mutua.chat.reply_spans import Rendering
from mutua.chat.template import ChatTemplate, ChatTemplateError

TOKENS = ("<image>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<image>", "<|end|>"]}


@pytest.fixture(autouse=True)
def _forget() -> None:
    conversation._remembered.cache_clear()


def kept() -> int:
    return conversation._remembered.cache_info().currsize


def render(template: str, messages: list[dict[str, Any]], end: bool = False, **variables: Any) -> Rendering:
    chat_template = ChatTemplate(template, {**SPECIAL, **variables})
    (checked,) = check_messages(messages, TOKENS, chat_template)
    return render_conversation(chat_template, checked, "<image>", TOKENS, add_generation_prompt=end)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_same_again_is_the_same(monkeypatch: pytest.MonkeyPatch, shape) -> None:
    system = [{"role": "system", "content": "be brief"}] if shape.has_system else []
    asked = [([*system, *TALK[:length]], end) for length in range(1, 5) for end in (False, True)]
    first = [render(shape.template, *one) for one in asked]
    assert kept() == len(asked)
    assert [render(shape.template, *one) for one in asked] == first
    monkeypatch.setattr(conversation, "_CHARACTERS", -1)  # nothing is short enough
    assert [render(shape.template, *one) for one in asked] == first
    assert kept() == len(asked)


def test_pictures_do_not_count_and_everything_else_does() -> None:
    def said(text: str, seed: int, reply: str) -> list[dict[str, Any]]:
        return [user(picture(seed), text), assistant(reply)]

    one = render(PARTS, said("is it?", 1, "yes"))
    assert (render(PARTS, said("is it?", 2, "yes")), kept()) == (one, 1)
    by_path = user("is it?")
    by_path["content"].insert(0, {"type": "image", "image": "a.png"})
    assert (render(PARTS, [by_path, assistant("yes")]), kept()) == (one, 1)
    others = [
        render(PARTS, said("is it?", 1, "no")),
        render(PARTS, [user("is it?", picture(1)), assistant("yes")]),
        render(PARTS, [user(picture(1), "is ", "it?"), assistant("yes")]),
        render(PARTS, said("is it?", 1, "yes"), end=True),
        render(PARTS, [{**said("is it?", 1, "yes")[0], "role": "system"}, assistant("yes")]),
        render("{{ date_string }}" + PARTS, said("is it?", 1, "yes"), date_string="today"),
        render("{{ date_string }}" + PARTS, said("is it?", 1, "yes"), date_string="tomorrow"),
        render("{{ additional_special_tokens | length }}" + PARTS, said("is it?", 1, "yes")),
    ]
    assert kept() == 1 + len(others)
    texts = [one.text, *(other.text for other in others)]
    assert len(set(texts)) == len(texts) - 1  # it does not show where a text is cut into parts


def test_what_a_template_may_see_is_there() -> None:
    """Other keys of a message, and those of a part in their order."""
    template = (
        "{% for m in messages %}{{ m['name'] }}{% for p in m['content'] %}{{ p | join }}"
        "{{ p['text'] if p['type'] == 'text' else '<image>' }}{% endfor %}{% endfor %}"
    )
    content = [{"type": "image", "image": picture(1)}, {"type": "text", "text": "what?"}]
    messages = [{"role": "user", "name": "Ann", "content": content}]
    assert render(template, messages).text == "Anntypeimage<image>typetextwhat?"
    assert render(template, [{**messages[0], "name": "Bob"}]).text == "Bobtypeimage<image>typetextwhat?"


@pytest.mark.parametrize(
    ("template", "text", "variables"),
    [
        (PARTS, "what? " * 100, {}),
        (PARTS + "{{ n }}", "what?", {"n": 1}),
        (PARTS + "{{ n }}", "what?", {"n": 1.0}),
        (CLOCK, "what?", {"date": "today"}),
    ],
)
def test_what_is_long_or_may_change_is_made_anew(template: str, text: str, variables: dict[str, Any]) -> None:
    rendering = render(template, [user(text)], **variables)
    assert rendering.text.endswith(str(variables.get("n", "")))
    assert kept() == 0


def test_errors_come_again() -> None:
    for _ in range(2):
        with pytest.raises(ChatTemplateError, match="is not in 'no place'"):
            render("{{ 'no place' }}", [user(picture(1))])
        with pytest.raises(ChatTemplateError):
            render(BARE_QUESTIONS.replace("</s>", ""), [user("what?"), assistant("red")])
    assert kept() == 0
