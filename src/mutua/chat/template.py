"""A chat template as a thing to render with, and the form in which it takes a message's content.

Templates of text-only models expect `content` to be a string, those of multimodal models a list of parts. Which of
the two is found by rendering a probe, for each role on its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from mutua.chat.messages import PART_TYPES, Message, count_images

Span = tuple[int, int]

_MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class ChatTemplateError(ValueError):
    """A chat template does not fit the conversation; the message shows where, and names the remedy."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template.

    Attributes:
        source: the template's text.
        variables: what it may use besides the messages: special tokens, tools, a date.
    """

    source: str
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_marked(self) -> bool:
        """Whether it says by `{% generation %}` what the assistant says."""
        return _MARK.search(self.source) is not None

    @property
    def asks_the_clock(self) -> bool:
        """Whether its text mentions `strftime_now`; it may be a branch that is never taken."""
        return "strftime_now" in self.source

    @property
    def strings(self) -> tuple[tuple[str, str], ...]:
        """The variables that are strings, in an order: with the source, what a probe's result can be kept by."""
        return tuple(sorted((name, value) for name, value in self.variables.items() if isinstance(value, str)))

    def render(self, messages: Sequence[Message], **options: Any) -> str:
        """The messages as text. Options: `add_generation_prompt`, `continue_final_message`, further variables."""
        return self._render(messages, **options)[0]

    def render_marked(self, messages: Sequence[Message], **options: Any) -> tuple[str, tuple[Span, ...]]:
        """As `render`, and the characters (start, end) that the marks enclose, where they enclose any."""
        text, marked = self._render(messages, return_assistant_tokens_mask=True, **options)
        # With `continue_final_message` the text is cut inside the last mark.
        return text, tuple((start, min(end, len(text))) for start, end in marked if start < min(end, len(text)))

    def _render(self, messages: Sequence[Message], **options: Any) -> tuple[str, list[Span]]:
        try:
            texts, marked = render_jinja_template(
                conversations=[list(messages)], chat_template=self.source, **{**self.variables, **options}
            )
        except (TemplateError, TypeError, ArithmeticError, LookupError, ValueError, AttributeError) as error:
            # The errors of a template's own, and those of its expressions, e.g. on content of another form.
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ChatTemplateError(
                f"the chat template cannot render messages of the roles {roles}: {error}"
            ) from error
        return texts[0], marked[0] if marked else []


def template_source(processor: Any, chat_template: str | None = None) -> str:
    """The template's text, given it, or its name among the processor's several, or None for the default."""
    own = processor.chat_template if isinstance(processor.chat_template, dict) else {"default": processor.chat_template}
    source = own.get(chat_template or "default", chat_template)
    if source is None:
        raise ValueError(
            f"no chat template to render with (the processor has {sorted(k for k, v in own.items() if v)}): pass "
            "chat_template=..., or set processor.chat_template."
        )
    return source


def to_template_form(template: ChatTemplate, messages: Sequence[Message], image_token: str) -> list[dict[str, Any]]:
    """The messages with their content in the form that the template takes, by role.

    As one string, an image is `image_token` where it stands among the texts, and nothing is put between the parts.

    Raises:
        ChatTemplateError: the template takes strings, and a part is neither text nor image.
    """
    return [
        _in_form(message, _takes_parts(template.source, template.strings, message["role"], image_token), image_token)
        for message in messages
    ]


def _in_form(message: Message, as_parts: bool, image_token: str) -> dict[str, Any]:
    content = message.get("content")
    if content is None:
        return dict(message)
    if as_parts:
        return {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}
    if isinstance(content, str):
        return dict(message)
    for part in content:
        if part["type"] not in PART_TYPES:
            raise ChatTemplateError(
                f"a part of type {part['type']!r} in the {message['role']} message: the chat template takes text, and "
                "only images are put in as a placeholder."
            )
    return {**message, "content": "".join(image_token if p["type"] == "image" else p["text"] for p in content)}


_TEXT, _PRINTED_PART = "a probe of parts", re.compile(r"""['"]type['"]\s*:""")


@lru_cache(maxsize=256)
def _takes_parts(source: str, special: tuple[tuple[str, str], ...], role: str, image_token: str) -> bool:
    """Whether a probe of that role renders as it must: its text, its image, and no Python list printed."""
    probe: dict[str, Any] = {"role": role, "content": [{"type": "text", "text": _TEXT}]}
    before: list[dict[str, Any]] = []
    after: list[dict[str, Any]] = []
    if role == "user":
        probe["content"].insert(0, {"type": "image"})
    else:
        asked = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        (after if role == "system" else before).append(
            _in_form(asked, _takes_parts(source, special, "user", image_token), image_token)
        )
    try:
        text = ChatTemplate(source, dict(special)).render([*before, probe, *after])
    except ChatTemplateError:
        return False
    return _TEXT in text and text.count(image_token) == count_images([probe]) and not _PRINTED_PART.search(text)
