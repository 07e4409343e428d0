"""A row as other tools hold it (TRL, `datasets`, LLaVA, ShareGPT, ms-swift) as a `Sample`.

What a row may hold, by its keys:

- the conversation, as one of `messages`, `conversations`, `prompt` + `completion`, `query` + `response` (+ `history`),
  and `system` beside any of them;
- its pictures, inside the parts of the messages, or apart, as `images` or `image`;
- `id`, `family`, `source`; other keys are no content, and are passed over.

Pictures that come apart go to their places in order: to image parts that hold no image, and to `<image>` marks in
texts. Where there is no place at all, they open the first user message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import ValidationError

from mutua.data.sample import Sample, SampleError, first_problem
from mutua.shortened import shortened

_ROLES = {
    **{name: name for name in ("system", "user", "assistant")},
    **{"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"},
}

_IMAGE_MARK = "<image>"

CHATS = ("messages", "conversations", "prompt", "query")
"""The columns of which one holds the conversation, or begins it."""

# What other trainers take for a part of the conversation: to pass it over would train on something else.
_NOT_TAKEN = (
    *("text", "tools", "functions", "documents", "objects", "chosen", "rejected", "rejected_response"),
    *("video", "videos", "audio", "audios"),
)
_FOREIGN = {*CHATS[1:], "image", "images", "system"}
_MARK = re.compile(rf"\n*{_IMAGE_MARK}\n*")
_IMAGE_KEYS = ("image", "path", "url", "image_url")


def sample_from_row(row: Mapping[str, Any], place: str, source: str = "", id: str = "") -> Sample:
    """The row as a sample. Pictures that are paths stay so, pictures in memory are decoded.

    A key whose value is None or empty counts as absent: so Arrow fills the rows of a table.

    Args:
        row: see above.
        place: where the row stands: what errors begin with.
        source: where the row came from, unless it says so itself.
        id: names the sample, unless the row does; left out, the place does.

    Raises:
        SampleError: with the place, the field, the value and the remedy.
    """
    named = row.get("id") if isinstance(row, Mapping) else None
    reader = _Row(str(id or place if named in (None, "") else named), place)
    if not isinstance(row, Mapping):
        reader.refuse("", f"a row is a mapping of columns, such as {{'messages': [...]}}, not {_shown(row)}")
    return reader.sample({key: value for key, value in row.items() if not _is_absent(value)}, source)


def has_foreign_layout(row: Any) -> bool:
    """Whether a row has the form of other tools, not that of a `Sample` itself."""
    return isinstance(row, Mapping) and (not row.keys() >= {"id", "messages"} or bool(row.keys() & _FOREIGN))


@dataclass
class _Part:
    """A part of a turn as a `Sample` takes it, and the field of the row that an error about it names."""

    field: str
    given: dict[str, Any]


@dataclass
class _Turn:
    field: str
    role: str
    parts: list[_Part]


class _Row:
    """One row on its way to a sample."""

    def __init__(self, id: str, place: str) -> None:
        self.id, self.place = id, place

    def refuse(self, field: str, problem: str) -> NoReturn:
        error = SampleError(": ".join(part for part in (self.place, field, problem) if part))
        error.sample_id = self.id
        raise error

    def sample(self, row: Mapping[str, Any], source: str) -> Sample:
        for key in _NOT_TAKEN:
            if key in row:
                self.refuse(key, f"a sample has no place for it (got {_shown(row[key])}): remove the column")
        chat = self._chat_key(row)
        turns = list(self._turns(row, chat))
        self._fill(turns, self._pictures(row))
        given = {
            "id": self.id,
            "messages": [{"role": turn.role, "content": [part.given for part in turn.parts]} for turn in turns],
            "family": row.get("family", ""),
            "source": row.get("source", source),
        }
        try:
            return Sample.model_validate(given)
        except ValidationError as error:
            field, problem = first_problem(error)
            self.refuse(_field_of_row(field, turns, chat), problem)

    def _chat_key(self, row: Mapping[str, Any]) -> str:
        keys = [key for key in CHATS if key in row]
        if not keys:
            self.refuse(
                "",
                f"no conversation in its columns {', '.join(row) or '(none)'}: it is looked for in messages, "
                "conversations, prompt and completion, or query and response",
            )
        if len(keys) > 1:
            self.refuse("", f"{keys[0]} and {keys[1]} hold a conversation each: remove the one that is not meant")
        return keys[0]

    def _turns(self, row: Mapping[str, Any], chat: str) -> Iterator[_Turn]:
        if "system" in row:
            yield self._turn("system", "system", row["system"])
        if chat in ("messages", "conversations"):
            yield from self._messages(chat, row[chat])
        elif chat == "prompt":
            for key, role in (("prompt", "user"), ("completion", "assistant")):
                if isinstance(row.get(key), str):
                    yield self._turn(key, role, row[key])
                elif key in row:
                    yield from self._asked(key, row[key]) if key == "prompt" else self._messages(key, row[key])
        else:
            for nth, pair in enumerate(self._list("history", row.get("history", []))):
                if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                    self.refuse(f"history.{nth}", f"is a query and its response, not {_shown(pair)}")
                yield self._turn(f"history.{nth}.0", "user", pair[0])
                yield self._turn(f"history.{nth}.1", "assistant", pair[1])
            yield self._turn("query", "user", row["query"])
            if "response" in row:
                yield self._turn("response", "assistant", row["response"])

    def _asked(self, key: str, messages: Any) -> Iterator[_Turn]:
        """The messages of a prompt. A reply among them is not to be learned, and every reply of a sample is."""
        for turn in self._messages(key, messages):
            if turn.role == "assistant":
                self.refuse(
                    turn.field,
                    "is a reply within the prompt, of which nothing is to be learned: give the whole "
                    "conversation as messages, if its replies are to be learned, or leave it out",
                )
            yield turn

    def _messages(self, key: str, messages: Any) -> Iterator[_Turn]:
        for nth, message in enumerate(self._list(key, messages)):
            field = f"{key}.{nth}"
            if not isinstance(message, Mapping):
                self.refuse(
                    field, f"a message is a mapping such as {{'role': ..., 'content': ...}}, not {_shown(message)}"
                )
            message = {name: value for name, value in message.items() if not _is_absent(value)}
            speaker, said = ("from", "value") if message.keys() & {"from", "value"} else ("role", "content")
            for name in message.keys() - {speaker, said}:
                self.refuse(
                    f"{field}.{name}", f"a message has no place for it (got {_shown(message[name])}): remove it"
                )
            role = message.get(speaker)
            if not isinstance(role, str) or role not in _ROLES:
                self.refuse(f"{field}.{speaker}", f"{_shown(role)} is no speaker: use one of {', '.join(_ROLES)}")
            if said not in message:
                self.refuse(f"{field}.{said}", "is missing or empty: give the message a text, or leave it out")
            yield self._turn(field, _ROLES[role], message[said], said)

    def _turn(self, field: str, role: str, content: Any, key: str = "") -> _Turn:
        inside = f"{field}.{key}" if key else field
        if isinstance(content, str):
            return _Turn(field, role, [_Part(inside, part) for part in _split(content)])
        if not isinstance(content, (list, tuple)):
            self.refuse(inside, f"is a text or a list of parts, not {_shown(content)}")
        parts = []
        for nth, part in enumerate(content):
            parts += [_Part(f"{inside}.{nth}", one) for one in self._parts(f"{inside}.{nth}", part)]
        return _Turn(field, role, parts)

    def _parts(self, field: str, part: Any) -> list[dict[str, Any]]:
        """A part as a sample takes it; the marks in a text make several of it."""
        if not isinstance(part, Mapping):
            self.refuse(field, f"a part is a mapping such as {{'type': 'text', 'text': ...}}, not {_shown(part)}")
        part = {name: value for name, value in part.items() if value is not None}
        if part.keys() == {"type", "text"} and part["type"] == "text" and isinstance(part["text"], str):
            return _split(part["text"])
        if part.get("type") not in ("image", "image_url"):
            return [part]
        part = {name: value for name, value in part.items() if not _is_absent(value)}
        held = [name for name in _IMAGE_KEYS if name in part]
        if len(held) > 1:
            self.refuse(field, f"is one image, but holds {' and '.join(held)}: leave one")
        image = {"image": _picture(part.pop(held[0]))} if held else {}
        return [{**part, "type": "image", **image}]

    def _pictures(self, row: Mapping[str, Any]) -> list[_Part]:
        """The pictures that come apart from the messages, as parts."""
        if "images" in row and "image" in row:
            self.refuse("", "images and image hold pictures each: remove the one that is not meant")
        key = "images" if "images" in row else "image"
        held = row.get(key, [])
        if not isinstance(held, (list, tuple)):
            return [_Part(key, {"type": "image", "image": _picture(held)})]
        for nth, picture in enumerate(held):
            if _is_absent(picture):
                self.refuse(f"{key}.{nth}", f"is no picture (got {_shown(picture)}): give one, or leave it out")
        return [_Part(f"{key}.{nth}", {"type": "image", "image": _picture(one)}) for nth, one in enumerate(held)]

    def _fill(self, turns: Sequence[_Turn], pictures: Sequence[_Part]) -> None:
        """Puts the pictures into their places."""
        images = [part for turn in turns for part in turn.parts if part.given.get("type") == "image"]
        places = [part for part in images if part.given.get("image") is None]
        if pictures and not images:
            first = next((turn for turn in turns if turn.role == "user"), None)
            if first is not None:
                first.parts[:0] = pictures
                return
        if len(places) != len(pictures):
            self.refuse(
                ", ".join(dict.fromkeys(part.field for part in places)),
                f"{_count(len(places), 'place')} for a picture (marks <image>, image parts without an image), "
                f"and {_count(len(pictures), 'picture')} in images or image: give each place its picture",
            )
        for place, picture in zip(places, pictures, strict=True):
            place.field, place.given = f"{place.field} ({picture.field})", {**place.given, **picture.given}

    def _list(self, field: str, given: Any) -> Sequence[Any]:
        if not isinstance(given, (list, tuple)):
            self.refuse(field, f"is a list, not {_shown(given)}")
        return given


def _split(text: str) -> list[dict[str, Any]]:
    """A plain text as parts: its marks are places for images.

    As LLaVA does, the newlines beside a mark are left out, and white space where a text with marks begins or ends.
    """
    if _IMAGE_MARK not in text:
        return [{"type": "text", "text": text}]
    texts = _MARK.split(text)
    said = [nth for nth, one in enumerate(texts) if one.strip()]
    if said:
        texts[said[0]] = texts[said[0]].lstrip()
        texts[said[-1]] = texts[said[-1]].rstrip()
    parts: list[dict[str, Any]] = []
    for nth, one in enumerate(texts):
        if nth:
            parts.append({"type": "image"})
        if nth in said:
            parts.append({"type": "text", "text": one})
    return parts


def _picture(value: Any) -> Any:
    """A picture as `ImagePart` takes it: `datasets` keeps the path of a file as {"bytes": None, "path": ...}."""
    if isinstance(value, Mapping):
        if value.get("url") is not None:
            return value["url"]
        if value.get("bytes") is None and value.get("path") is not None:
            return value["path"]
    return value


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not value)


def _field_of_row(field: str, turns: Sequence[_Turn], chat: str) -> str:
    """The field of the row that a field of the sample came from."""
    keys = field.split(".")
    if keys[0] != "messages":
        return field
    if len(keys) == 1:
        return chat
    turn = turns[int(keys[1])]
    if len(keys) < 4 or keys[2] != "content":
        return turn.field
    # The keys of a part are ours, unless it is one too many.
    return ".".join([turn.parts[int(keys[3])].field, *(key for key in keys[4:] if key not in ("text", "image"))])


def _shown(value: Any) -> str:
    return shortened(repr(value), 100)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
