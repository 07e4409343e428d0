"""Chats made up to learn a template's ways from: rendered, tokenized, and their replies known from the messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from mutua.chat.control_tokens import control_tokens_of
from mutua.chat.messages import Message
from mutua.chat.reply_spans import find_replies
from mutua.chat.reply_tokens import tokenize_rendering
from mutua.chat.template import ChatTemplate, ChatTemplateError, template_source, to_template_form

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class ProbeChat:
    """A probe in tokens, and which of them are replies."""

    ids: list[int]
    is_reply: list[bool]

    @property
    def replies(self) -> list[Tokens]:
        return [run for is_reply, run in self._runs() if is_reply]

    @property
    def prompts(self) -> list[Tokens]:
        """The prompt blocks that a reply follows."""
        runs = self._runs()
        return [run for nth, (is_reply, run) in enumerate(runs[:-1]) if not is_reply and runs[nth + 1][0]]

    def _runs(self) -> list[tuple[bool, Tokens]]:
        grouped = groupby(zip(self.ids, self.is_reply, strict=True), key=lambda token: token[1])
        return [(is_reply, tuple(token for token, _ in run)) for is_reply, run in grouped]


class Probes:
    """Chats that a template renders, whose replies are known from the messages."""

    def __init__(self, processor: Any) -> None:
        self.tokenizer = processor.tokenizer
        self.template = ChatTemplate(template_source(processor), self.tokenizer.special_tokens_map)
        self.image_token = getattr(processor, "image_token", None)
        self.control_tokens = control_tokens_of(self.tokenizer)
        self.control_ids = set(self.control_tokens.values())

    def plain_chats(self) -> list[ProbeChat]:
        """Of several turns, with different letters at either side of every border."""
        turns = [_user("one"), _reply("yes"), _user("Two?"), _reply("No."), _user("3 (a)"), _reply("7")]
        chats = [self._chat(turns), self._chat(turns[2:])]
        more = [[_system("Be brief."), *turns], [_system("7"), *turns[4:]]]
        if self.image_token:
            picture = {"type": "image"}
            more += [[_user("what?", picture), *turns[1:]], [_user(picture, "what?"), *turns[1:]]]
            more += [[_user(picture), *turns[1:]]]
        return [
            *chats,
            *self._where_taken(more),
            *self._where_taken([turns[:3], turns[:5]], add_generation_prompt=True),
        ]

    def misleading_chats(self, suffix: Tokens) -> list[ProbeChat]:
        """Those of `misleading_conversations` that the template takes, and one that is cut."""
        chats = misleading_conversations(self.decode(suffix), self.control_tokens)
        cut = [_user("one"), _reply("yes")]
        return [*self._where_taken(chats), *self._where_taken([cut], continue_final_message=True)]

    def end_of(self, chats: Iterable[ProbeChat]) -> Tokens:
        """The tokens that end every reply."""
        ends = set()
        for reply in (reply for chat in chats for reply in chat.replies):
            first = next((place for place, token in enumerate(reply) if token in self.control_ids), len(reply))
            ends.add(reply[first:])
        if len(ends) != 1 or () in ends:
            shown = sorted(self.decode(end) for end in ends)
            raise ChatTemplateError(
                f"the chat template does not end all replies with the same control token, but with {shown}, so their "
                "ends are not found in tokens alone. Find the roles from messages."
            )
        return ends.pop()

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def _where_taken(self, chats: Iterable[list[Message]], **end: bool) -> list[ProbeChat]:
        """Without those for which the template has no place, or that are refused as messages."""
        taken = []
        for messages in chats:
            with suppress(ValueError):
                taken.append(self._chat(messages, **end))
        return taken

    def _chat(self, messages: list[Message], **end: bool) -> ProbeChat:
        if self.image_token:
            messages = list(to_template_form(self.template, messages, self.image_token))
        rendering = find_replies(self.template, messages, self.control_tokens, **end)
        ids, _, is_reply = tokenize_rendering(self.tokenizer, rendering, self.control_ids)
        return ProbeChat(ids, is_reply)


def message(role: str, *parts: str | dict[str, str]) -> Message:
    """A message of texts and other parts, in order."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": role, "content": content}


_user, _reply, _system = (partial(message, role) for role in ("user", "assistant", "system"))


def misleading_conversations(before_reply: str, control_tokens: Iterable[str]) -> list[list[Message]]:
    """Conversations whose texts hold what a template writes before a reply, as far as it is plain text, or whose turns
    do not alternate."""
    pieces = re.split("|".join(map(re.escape, control_tokens)), before_reply)
    conversations = []
    for text in (piece.strip() for piece in pieces if piece.strip()):
        for said in (text, f"{text} x", f"x {text}", f"x\n{text}\nx", f"x {text} x"):
            turns = [_user(said), _reply("yes"), _user(said), _reply("no")]
            conversations += [turns, [_system(said), *turns], [_user("x"), _reply(said), *turns]]
    short = [_user("one"), _reply("yes")]
    return [*conversations, [_user("x"), *short, *short], [*short, _reply("no")], [*short, _reply("no"), *short]]
