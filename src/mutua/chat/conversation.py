"""A conversation as text with its replies. Short ones are remembered: data ask the same few questions again and again.

What is remembered is a pure function of the template, its variables and what was said. A picture is no part of that: a
template is told where one stands, not which one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from mutua.chat.messages import IMAGE_KEYS, Message
from mutua.chat.reply_spans import Rendering, expect_images, find_replies
from mutua.chat.template import ChatTemplate, to_template_form

# Mappings as tuples of their items, lists as tuples.
_Part: TypeAlias = tuple[tuple[str, str], ...]
_Said: TypeAlias = tuple[tuple[tuple[str, str | tuple[_Part, ...]], ...], ...]
_Variables: TypeAlias = tuple[tuple[str, str | bool | tuple[str, ...] | None], ...]

_REMEMBERED, _CHARACTERS = 4096, 500  # conversations, each of at most so much text: a few MB
_PICTURE = "a picture"


def render_conversation(
    template: ChatTemplate,
    messages: Sequence[Message],
    image_token: str | None,
    control_tokens: Iterable[str],
    *,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
) -> Rendering:
    """Renders messages that `check_messages` let pass, and finds their replies.

    Args:
        image_token: what the template writes for an image; None for a processor that has none.
        control_tokens, add_generation_prompt, continue_final_message: see `find_replies`.

    Raises:
        ChatTemplateError: as `find_replies`, or the text has not one placeholder an image.
    """
    messages = [_without_pictures(message) for message in messages]
    said, variables = _said(messages), _frozen(template.variables)
    tokens, ends = tuple(control_tokens), (add_generation_prompt, continue_final_message)
    if said is None or variables is None or template.asks_the_clock:
        return _render(template, messages, image_token, tokens, *ends)
    return _remembered(template.source, variables, said, image_token, tokens, *ends)


@lru_cache(maxsize=_REMEMBERED)
def _remembered(
    source: str,
    variables: _Variables,
    said: _Said,
    image_token: str | None,
    control_tokens: tuple[str, ...],
    *ends: bool,
) -> Rendering:
    template = ChatTemplate(
        source, {name: list(value) if isinstance(value, tuple) else value for name, value in variables}
    )
    messages = [
        {name: value if isinstance(value, str) else [dict(part) for part in value] for name, value in message}
        for message in said
    ]
    return _render(template, messages, image_token, control_tokens, *ends)


def _render(
    template: ChatTemplate,
    messages: Sequence[Message],
    image_token: str | None,
    control_tokens: tuple[str, ...],
    add_generation_prompt: bool,
    continue_final_message: bool,
) -> Rendering:
    rendering = find_replies(
        template,
        messages if image_token is None else to_template_form(template, messages, image_token),
        control_tokens,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )
    if image_token is not None:
        expect_images(rendering, messages, image_token)
    return rendering


def _said(messages: Sequence[Message]) -> _Said | None:
    """The messages as something to remember by; None where they are long, or hold more than texts."""
    said, texts = [], []
    for message in messages:
        items: list[tuple[str, Any]] = []
        for name, value in message.items():
            if name == "content" and isinstance(value, list):
                value = tuple([tuple(part.items()) for part in value])
                texts += [text for part in value for _, text in part]
            else:
                texts.append(value)
            items.append((name, value))
        said.append(tuple(items))
    if not all(isinstance(text, str) for text in texts) or sum(map(len, texts)) > _CHARACTERS:
        return None
    return tuple(said)


def _without_pictures(message: Message) -> Message:
    if not isinstance(content := message.get("content"), list):
        return message
    parts = [
        {name: _PICTURE if name in IMAGE_KEYS else value for name, value in part.items()}
        if part["type"] == "image"
        else part
        for part in content
    ]
    return {**message, "content": parts}


def _frozen(variables: Mapping[str, Any]) -> _Variables | None:
    """The variables as something to remember by; None where there are others than texts, lists of them, true and false
    (of numbers, equal ones may be written differently)."""
    frozen = []
    for name, value in variables.items():
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            value = tuple(value)
        elif not isinstance(value, str | bool | None):
            return None
        frozen.append((name, value))
    return tuple(frozen)
