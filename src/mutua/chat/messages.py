"""Messages as callers hand them in: the one check that all of them pass, and what is in them afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from mutua.images import ImageError, open_image
from mutua.shortened import shortened

if TYPE_CHECKING:
    from mutua.chat.template import ChatTemplate

Message = Mapping[str, Any]

PART_TYPES = ("text", "image")
_ROLES = ("system", "user", "assistant")
_FURTHER_ROLES = ("developer", "tool", "function", "ipython")  # where the template names them
_VARIABLES = ("tools", "documents")  # of a template: what is said beside the messages
IMAGE_KEYS = ("image", "url", "path", "base64")
_REASONING = ("reasoning_content", "reasoning", "thinking")  # one thing: Transformers hands on any as all three


def check_messages(
    conversations: Any, control_tokens: Iterable[str], template: ChatTemplate, part_types: Sequence[str] = PART_TYPES
) -> list[list[Message]]:
    """Conversations (or a single one), each a list of messages as the rest of this package takes them.

    A key whose value is None counts as absent, as Arrow gives every message and part the keys of all others. OpenAI's
    `image_url` parts become `image` parts. Images may come apart from their parts.

    Args:
        control_tokens: what no text may hold.
        template: what it does not name, it would drop: further roles, further keys of a message, `tools`, `documents`.
        part_types: those that the processor has an input for.

    Raises:
        ValueError: naming the message and part (counted from 0, as Python does), and the conversation of a batch.
    """
    if not isinstance(conversations, (list, tuple)):
        raise ValueError(
            f"a conversation is a list of messages, such as {{'role': 'user', 'content': 'hello'}}, not "
            f"{_shown(conversations)}."
        )
    if not conversations:
        raise ValueError("the conversation is empty: give at least one message, {'role': 'user', 'content': ...}.")
    check = _Check(tuple(control_tokens), template.source, tuple(part_types))
    for name in _VARIABLES:
        check.variable(name, template.variables.get(name))
    batch = conversations if is_batch(conversations) else [conversations]
    return [check.conversation(one, before) for before, one in zip(_befores(batch), batch, strict=True)]


def is_batch(conversations: Sequence[Any]) -> bool:
    """Whether these are several conversations."""
    return isinstance(conversations[0], (list, tuple))


def is_text(text: str) -> bool:
    """Whether this is text that a tokenizer takes: no half of a character, as which Python holds undecodable bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def texts_of(message: Message) -> list[str]:
    """The texts of a message's content, part by part."""
    content = message.get("content") or ""
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


def count_images(messages: Sequence[Message]) -> int:
    """How many image parts the messages hold."""
    return len(_images_by_place(messages))


def open_images_of(conversations: Sequence[Sequence[Message]]) -> list[list[Image]]:
    """The images of each conversation, in order, in RGB.

    Raises:
        ImageError: an image part holds none, or one that cannot be used (see `open_image`); with message and part.
    """
    befores = _befores(conversations)
    return [
        [_open(image, before + place) for place, image in _images_by_place(messages).items()]
        for before, messages in zip(befores, conversations, strict=True)
    ]


def _open(image: Any, place: str) -> Image:
    if image is None:
        raise ImageError(
            f"{place} is an image part without an image: give it one ({{'type': 'image', 'image': ...}}), or give all "
            "of them apart, as images=..."
        )
    try:
        return open_image(image)
    except ImageError as error:
        raise ImageError(f"{place}: {error}") from None


def hold_images(messages: Sequence[Message]) -> bool:
    """Whether any image part holds its image, which may come apart."""
    return any(image is not None for image in _images_by_place(messages).values())


def _images_by_place(messages: Sequence[Message]) -> dict[str, Any]:
    """What each image part holds, in order."""
    return {
        place: next((part[key] for key in IMAGE_KEYS if part.get(key) is not None), None)
        for place, part in _image_parts(messages)
    }


def _image_parts(messages: Sequence[Message]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The image parts with their places, in order."""
    for m, message in enumerate(messages):
        if not isinstance(message.get("content") or "", str):
            for p, part in enumerate(message["content"]):
                if part["type"] == "image":
                    yield f"messages[{m}].content[{p}]", part


def _befores(conversations: Sequence[Any]) -> list[str]:
    """What a place begins with: nothing where there is only one conversation."""
    return [f"conversation {row}: " for row in range(1, len(conversations) + 1)] if len(conversations) > 1 else [""]


class _Check:
    """What messages are held against."""

    def __init__(self, control_tokens: tuple[str, ...], template: str, part_types: tuple[str, ...]) -> None:
        self.control_tokens, self.template, self.part_types = control_tokens, template, part_types
        further = [name for name in _FURTHER_ROLES if re.search(rf"['\"]{name}['\"]", template)]
        self.roles = (*_ROLES, *further)

    def conversation(self, messages: Any, before: str) -> list[Message]:
        if not isinstance(messages, (list, tuple)) or not messages:
            raise ValueError(f"{before}a conversation is a list of messages, not {_shown(messages)}.")
        checked = [self._message(message, f"{before}messages[{nth}]") for nth, message in enumerate(messages)]
        for nth, (place, part) in enumerate(_image_parts(checked)):
            if part.get("index", nth) != nth:
                raise ValueError(
                    f"{before}{place} is image {nth} of the conversation, but its index is {part['index']!r}: images "
                    "are taken in the order of their parts."
                )
        return checked

    def variable(self, name: str, value: Any) -> None:
        if value is None or _empty(value):
            return
        if not self._named(name):
            raise ValueError(
                f"{name} came, and the chat template has no place for them: leave them out, or take one that has."
            )
        self._check_texts(value, name)

    def _message(self, message: Any, place: str) -> Message:
        if not isinstance(message, Mapping):
            raise ValueError(
                f"{place} is {_shown(message)}, not a message such as {{'role': 'user', 'content': 'hi'}}."
            )
        message = _without_none(message)
        role, content = message.get("role"), message.get("content")
        self._check_role(role, place)
        others = {key: value for key, value in message.items() if key not in ("role", "content") and not _empty(value)}
        for key, value in others.items():
            if not any(self._named(name) for name in (_REASONING if key in _REASONING else (key,))):
                raise ValueError(
                    f"{place} has {key!r}, and the chat template has no place for it: remove it, or take a template "
                    "that has one."
                )
            self._check_texts(value, f"{place}.{key}")
        if content is None and others and role == "assistant":  # e.g. nothing but tool calls
            return message
        if isinstance(content, str):
            self._check_texts(content, place)
            return message
        if not isinstance(content, (list, tuple)) or not content:
            raise ValueError(
                f"{place} ({role}) has no content, or none that can be said: give text or a list of parts, not "
                f"{_shown(content)}."
            )
        parts = [self._part(part, f"{place}.content[{nth}]") for nth, part in enumerate(content)]
        self._check_texts("".join(part["text"] for part in parts if part["type"] == "text"), f"{place}, parts joined")
        if role == "assistant" and any(part["type"] == "image" for part in parts):
            raise ValueError(f"{place}: an image in an assistant message: images belong in user messages.")
        return {**message, "content": parts}

    def _check_role(self, role: Any, place: str) -> None:
        if role not in self.roles:
            raise ValueError(
                f"{place} has {'no role' if role is None else f'the role {role!r}'}: with this chat template it is "
                f"{', '.join(self.roles[:-1])} or {self.roles[-1]}."
            )

    def _part(self, part: Any, place: str) -> dict[str, Any]:
        if not isinstance(part, Mapping):
            raise ValueError(f"{place} is {_shown(part)}, not a part such as {{'type': 'text', 'text': 'hi'}}.")
        part = _without_none(part)
        if part.get("type") == "image_url":
            address = part.pop("image_url", None)
            part |= _without_none(address if isinstance(address, Mapping) else {"url": address})
            part["type"] = "image"
            if part.get("detail") == "auto":  # as the model likes it
                del part["detail"]
        kind = part.get("type")
        if kind not in self.part_types:
            given = "without a type" if kind is None else f"of type {kind!r}"
            raise ValueError(f"{place} is a part {given}: this model's parts are {' and '.join(self.part_types)}.")
        held = [key for key in IMAGE_KEYS if key in part]
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise ValueError(f"{place} is a text part whose text is {_shown(part.get('text'))}: give a string.")
            self._check_texts(part["text"], place)
        elif kind == "image" and part.get("text"):
            raise ValueError(f"{place} holds text beside its image: give each a part of its own.")
        if kind == "text" and held:
            raise ValueError(f"{place} holds {held[0]!r} beside its text: give each a part of its own.")
        if kind == "image" and len(held) > 1:
            raise ValueError(f"{place} is one image, but holds {' and '.join(map(repr, held))}: give one of them.")
        for key in part if kind in PART_TYPES else ():
            if key not in ("type", "text", *held) and (kind, key) != ("image", "index"):
                raise ValueError(f"{place} has {key!r}, which says nothing to this model: remove it.")
        if isinstance(part.get("base64"), str) and not part["base64"].startswith("data:"):
            part["base64"] = f"data:image;base64,{part['base64']}"
        return part

    def _check_texts(self, value: Any, place: str) -> None:
        for text in _strings_in(value):
            if not is_text(text):
                raise ValueError(f"{place}: the text {text[:80]!r} is no valid text: give UTF-8.")
            for token in self.control_tokens:
                if token in text:
                    raise ValueError(
                        f"{place}: the text {_around(text, token)!r} holds the control token {token!r}, which could "
                        "change who is speaking: remove it."
                    )

    def _named(self, name: Any) -> bool:
        return re.search(rf"\b{re.escape(str(name))}\b", self.template) is not None


def _strings_in(value: Any) -> Iterator[str]:
    """Every string in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (*_strings_in(key), *_strings_in(inner))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings_in(inner)


def _without_none(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value is not None}


def _empty(value: Any) -> bool:
    return isinstance(value, (str, list, tuple, Mapping)) and not value


def _shown(value: Any) -> str:
    """The value and its type, cut."""
    if value is None:
        return "None"
    return f"{shortened(repr(value))} ({type(value).__name__})"


def _around(text: str, token: str) -> str:
    """The piece of the text where the token stands."""
    at = text.index(token)
    return text[max(at - 40, 0) : at + len(token) + 40]
