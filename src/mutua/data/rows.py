"""Rows as other tools hold them become samples: TRL's and `datasets`' columns, LLaVA, ShareGPT and ms-swift JSON.

| columns | from |
|---|---|
| `messages` (or `conversations`), each message with `role` and `content` | OpenAI, TRL, ms-swift |
| `conversations`, each message with `from` and `value` | LLaVA, ShareGPT |
| `prompt` and `completion`, texts or lists of messages | TRL |

Pictures stand in the parts themselves, or in a column `images` (or `image`); then a mark `<image>` in a text, or an
image part that holds nothing, says where each one belongs, and without any they come before the first user's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from mutua.data.sample import Sample, SampleError, first_problem

MARK = "<image>"

_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}
_IMAGE_KEYS = ("image", "url", "path")


def sample_from_row(row: Mapping[str, Any], place: str, source: str = "") -> Sample:
    """The sample in a row.

    Args:
        row: columns by name; other columns than those above, `id`, `family` and `system` are let be.
        place: where the row stands, for errors and, where the row has no `id`, as the sample's id.
        source: the data set that the row came from.

    Raises:
        SampleError: no chat is in the row, its pictures are not as many as the places for them, or what
            `mutua.data.sample.Sample` refuses; the message begins with `place`.
    """
    name = str(place if row.get("id") is None else row["id"])
    try:
        if not isinstance(row, Mapping):
            raise ValueError(f"a row is an object with columns, not {type(row).__name__}")
        messages = [_message(message) for message in _messages(row)]
        _put_images(messages, _images(row))
        return Sample.model_validate(
            {"id": name, "messages": messages, "family": row.get("family") or "", "source": source}
        )
    except ValidationError as error:
        problem = ": ".join(first_problem(error))
    except ValueError as error:
        problem = str(error)
    refused = SampleError(f"{place}: {problem}")
    refused.sample_id = name
    raise refused


def _messages(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All messages of a row, in order."""
    for column in ("messages", "conversations"):
        if row.get(column) is not None:
            messages = _list_of_messages(row[column], column)
            break
    else:
        if row.get("prompt") is None or row.get("completion") is None:
            found = ", ".join(map(str, row)) or "nothing"
            raise ValueError(f"no messages, conversations, or prompt and completion; the columns are {found}")
        messages = [
            message
            for column, role in (("prompt", "user"), ("completion", "assistant"))
            for message in (
                [{"role": role, "content": row[column]}]
                if isinstance(row[column], str)
                else _list_of_messages(row[column], column)
            )
        ]
    system = row.get("system")
    return messages if not system else [{"role": "system", "content": system}, *messages]


def _list_of_messages(value: Any, column: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(message, Mapping) for message in value):
        raise ValueError(f"{column} is no list of messages, but {str(value)[:60]!r}")
    return list(value)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with the keys of ours, its content a list of parts."""
    role = message.get("role") or message.get("from")
    content = message.get("content") if message.get("content") is not None else message.get("value")
    kept = {"role": _ROLES.get(str(role), role)}
    if isinstance(content, str):
        return {**kept, "content": list(_parts_of_text(content))}
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"the content of a message of {role!r} is {str(content)[:60]!r}: give text or parts")
    return {**kept, "content": [part for given in content for part in _parts(given)]}


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(part, Mapping):
        raise ValueError(f"a part of a message is {str(part)[:60]!r}: give {{'type': 'text', 'text': ...}}")
    part = {key: value for key, value in part.items() if value is not None}
    if part.get("type") == "image":
        held = next((part[key] for key in _IMAGE_KEYS if key in part), None)
        yield {"type": "image", "image": held}
    elif part.get("type") == "text" and isinstance(part.get("text"), str):
        yield from _parts_of_text(part["text"])
    else:
        yield part


def _parts_of_text(text: str) -> Iterator[dict[str, Any]]:
    """The pieces of a text between marks. Line breaks beside a mark go with it, as in LLaVA's own code."""
    pieces = text.split(MARK)
    for nth, piece in enumerate(pieces):
        if nth:
            yield {"type": "image", "image": None}
        if len(pieces) > 1:
            piece = piece.strip("\n")
        if piece.strip() or len(pieces) == 1:
            yield {"type": "text", "text": piece}


def _images(row: Mapping[str, Any]) -> list[Any]:
    for column in ("images", "image"):
        if (value := row.get(column)) is not None:
            return list(value) if isinstance(value, (list, tuple)) else [value]
    return []


def _put_images(messages: Sequence[dict[str, Any]], images: Sequence[Any]) -> None:
    """Puts the pictures of the row's own column where they belong."""
    places = [part for message in messages for part in message["content"] if part.get("type") == "image"]
    empty = [part for part in places if part["image"] is None]
    if images and not places:
        first = next((message for message in messages if message["role"] == "user"), None)
        if first is None:
            raise ValueError("there are pictures, but no user message that they could belong to")
        first["content"][:0] = [{"type": "image", "image": image} for image in images]
        return
    if len(images) != len(empty):
        raise ValueError(f"{len(images)} pictures for {len(empty)} places (marks {MARK}, and image parts without one)")
    for part, image in zip(empty, images, strict=True):
        part["image"] = image
