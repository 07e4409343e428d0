"""Chats that are text already: one that remembers its replies, and one that comes as a plain string.

A plain string is read by the pieces that the template writes around what is said, learned by rendering probes. Every
text between two pieces must be free of control tokens, and nothing may be left over; else the string is no whole chat
of this template, or not surely one, and is refused. Nobody can tell whose the control tokens of a plain string are:
whoever renders messages elsewhere must check them, as `apply_chat_template` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import SupportsIndex

from mutua.chat.messages import Message
from mutua.chat.probes import message, misleading_conversations
from mutua.chat.reply_spans import Rendering, find_replies
from mutua.chat.template import ChatTemplate, ChatTemplateError, Span, to_template_form


class RenderedChat(str):
    """A rendered chat that remembers its replies: what `MutuaProcessor.apply_chat_template(tokenize=False)` returns.

    The end of it from within its last reply on, which trainers of prompts and completions cut off, remembers that it is
    a reply. Any other part of it, or a longer text made of it, is a plain string.

    Attributes:
        rendering: the text with its replies.
    """

    rendering: Rendering

    def __new__(cls, rendering: Rendering) -> RenderedChat:
        self = super().__new__(cls, rendering.text)
        self.rendering = rendering
        return self

    def __getitem__(self, place: SupportsIndex | slice) -> str:
        part = super().__getitem__(place)
        replies = self.rendering.replies
        if isinstance(place, slice) and replies and part:
            start, stop, step = place.indices(len(self))
            reply_start, reply_stop = replies[-1]
            # What a template writes behind the last reply, a line break say, must be no header of another one.
            if reply_start <= start < reply_stop and step == 1 and not self[reply_stop:stop].strip():
                return RenderedChat(Rendering(part, ((0, len(part)),)))
        return part

    def __getnewargs__(self) -> tuple[Rendering]:  # type: ignore[override]  # what a copy is made of
        return (self.rendering,)


def read_rendered(template: ChatTemplate, text: str, control_tokens: Iterable[str], image_token: str) -> Rendering:
    """The replies of a rendered chat that comes as a plain string.

    Raises:
        ValueError: the text is not, from its first to its last character, a chat as this template renders it, or
            another chat could have the same text.
    """
    pieces = _learn(template.source, template.strings, tuple(control_tokens), image_token)
    return Rendering(text, tuple(pieces.read(text)))


_TOLD, _ASKED, _SAID = "probe told", "probe asked", "probe said"
_ANYTHING = "([\\s\\S]*?)"


@dataclass(frozen=True)
class _Pieces:
    """What a template writes around the texts of a chat, as patterns whose groups are those texts.

    Attributes:
        first, later: the prompt block before the first reply, and before any other, each in every form it has.
        end: what follows the last reply, or all of a chat without one.
        reply: a reply and what ends it.
        control_tokens: what no reply may hold; a prompt may hold images.
        headers: what else no text may hold, because it would open a reply: headers that are plain text.
    """

    first: tuple[re.Pattern[str], ...]
    later: tuple[re.Pattern[str], ...]
    end: tuple[re.Pattern[str], ...]
    reply: re.Pattern[str]
    control_tokens: tuple[str, ...]
    image_token: str
    headers: tuple[str, ...]

    def read(self, text: str) -> list[Span]:
        """The replies of `text`."""
        replies: list[Span] = []
        while (start := self._after_block(text, replies)) is not None:
            if start == len(text):
                return replies
            not_in_reply = (*self.control_tokens, *self.headers)
            reply = self.reply.match(text, start)
            # Where a header is plain text, a text that stops within a reply may as well be a question that holds it.
            if reply is None and not self.headers and not _holds(text[start:], not_in_reply):
                return [*replies, (start, len(text))]
            if reply is None or _holds(reply[1], not_in_reply):
                break
            replies.append((start, reply.end()))
        done = replies[-1][1] if replies else 0
        if any(self._is_free(pattern.fullmatch(text, done)) for pattern in self.end):
            return replies
        raise ValueError(f"from {text[done : done + 40]!r} on it is not what the chat template writes")

    def _after_block(self, text: str, replies: Sequence[Span]) -> int | None:
        """Where the prompt block behind the replies ends, if another reply can follow it."""
        patterns, done = (self.later, replies[-1][1]) if replies else (self.first, 0)
        found = (match for pattern in patterns if self._is_free(match := pattern.match(text, done)))
        return next((match.end() for match in found if match), None)

    def _is_free(self, match: re.Match[str] | None) -> bool:
        not_in_prompt = (*(token for token in self.control_tokens if token != self.image_token), *self.headers)
        return match is not None and not any(_holds(said, not_in_prompt) for said in match.groups())


def _holds(text: str, tokens: Iterable[str]) -> bool:
    return any(token in text for token in tokens)


@lru_cache(maxsize=64)
def _learn(
    source: str, variables: tuple[tuple[str, str], ...], control_tokens: tuple[str, ...], image_token: str
) -> _Pieces:
    """The pieces of a template, by chats whose texts are known."""
    template = ChatTemplate(source, dict(variables))

    def render(messages: list[Message]) -> Rendering:
        return find_replies(template, to_template_form(template, messages, image_token), control_tokens)

    def blocks(messages: list[Message]) -> tuple[list[str], list[str]]:
        """The prompt blocks and the replies of a probe."""
        rendering = render(messages)
        if len(rendering.replies) != sum(message["role"] == "assistant" for message in messages):
            raise ChatTemplateError("the chat template does not show all replies")
        borders = [0, *(border for reply in rendering.replies for border in reply), len(rendering.text)]
        texts = [rendering.text[start:stop] for start, stop in pairwise(borders)]
        return texts[::2], texts[1::2]

    asked, said = message("user", _ASKED), message("assistant", _SAID)
    openings: list[list[Message]] = [[asked]]
    try:
        blocks([message("system", _TOLD), asked, said])
        openings.append([message("system", _TOLD), asked])
    except ChatTemplateError:
        pass  # the template has no place for a system message
    first, later, end, replies = [], [], [], []
    for opening in openings:
        (before, between, after), spoken = blocks([*opening, said, asked, said])
        first.append(before)
        later.append(between)
        replies += spoken
        end += [after, blocks(opening)[0][0], blocks([*opening, said, asked])[0][-1]]
    if len(set(replies)) > 1:
        raise ValueError(f"the chat template writes one reply in several ways, {sorted(set(replies))}")
    headers = {block.rpartition(_ASKED)[2] for block in [*first, *later]}
    plain = {header.strip() for header in headers if not _holds(header, control_tokens)}
    if "" in plain:
        raise ValueError("nothing in the chat template opens a reply")
    pieces = _Pieces(
        first=_patterns(first),
        later=_patterns(later),
        end=_patterns(end),
        reply=_patterns(replies)[0],
        control_tokens=control_tokens,
        image_token=image_token,
        headers=tuple(plain),
    )
    for conversation in (chat for header in headers for chat in misleading_conversations(header, control_tokens)):
        with suppress(ValueError):  # the template has no place for it, or the text is refused, as it may be
            rendering = render(conversation)
            if tuple(pieces.read(rendering.text)) != rendering.replies:
                break
    else:
        return pieces
    raise ValueError(f"two chats of this chat template can have the same text, such as {rendering.text!r}")


def _patterns(texts: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    probes = re.compile(f"({'|'.join((_TOLD, _ASKED, _SAID))})")
    sources = [
        "".join(_ANYTHING if probes.fullmatch(piece) else re.escape(piece) for piece in probes.split(text))
        for text in dict.fromkeys(texts)
    ]
    return tuple(re.compile(source) for source in sources)
