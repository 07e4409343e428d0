"""Which characters of a rendered conversation are replies, for chat templates that nobody has prepared for it.

A template that marks what the assistant says (`{% generation %}`) is taken at its word. Any other is rendered step by
step: up to each reply with the header that opens it, and up to its end. Both must be beginnings of the whole, or the
template tells the same conversation in two ways, and where a reply stands is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from mutua.chat.messages import Message, count_images, texts_of
from mutua.chat.template import ChatTemplate, ChatTemplateError, Span
from mutua.shortened import shortened

REMEDY = (
    "Put {% generation %} ... {% endgeneration %} into the template, around the assistant's message and its end token."
)


@dataclass(frozen=True)
class Rendering:
    """A rendered conversation.

    Attributes:
        text: all of it, images as one placeholder each.
        replies: characters (start, end) that the model has to say, in order; a reply ends with its end-of-turn token.
            What stands between two replies is one prompt block.
    """

    text: str
    replies: tuple[Span, ...]


def find_replies(
    template: ChatTemplate,
    messages: Sequence[Message],
    control_tokens: Iterable[str],
    *,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
) -> Rendering:
    """Renders a conversation and finds its replies.

    Args:
        messages: their content in the form that the template takes (see `to_template_form`).
        control_tokens: the tokenizer's special tokens; one of them must end every reply.
        continue_final_message: the last message is a reply to be continued, so its end is the end of the text.

    Raises:
        ChatTemplateError: the template is ambiguous, changes or drops what was said, or has marks in wrong places.
    """
    steps = _Steps(template, messages, add_generation_prompt, continue_final_message)
    return steps.marked(control_tokens) if template.is_marked else steps.stepwise(control_tokens)


def _end_token(control_tokens: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(control_tokens, key=len, reverse=True)
    return re.compile(rf"\s*(?:{'|'.join(map(re.escape, longest_first))})")


class _Steps:
    """One conversation on its way to a `Rendering`."""

    def __init__(
        self, template: ChatTemplate, messages: Sequence[Message], generation_prompt: bool, continues_last: bool
    ) -> None:
        self.template, self.messages, self.continues_last = template, messages, continues_last
        self.options = {"add_generation_prompt": generation_prompt, "continue_final_message": continues_last}
        self.places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        if continues_last and self.places[-1:] != [len(messages) - 1]:
            raise ChatTemplateError(
                f"continue_final_message=True, but the last message is from the {messages[-1]['role']}: only a reply "
                "can be continued."
            )

    def stepwise(self, control_tokens: Iterable[str]) -> Rendering:
        whole = self.template.render(self.messages, **self.options)
        end_token = _end_token(control_tokens)
        if self.places:
            self._refuse_clock()
        replies: list[Span] = []
        before = 0  # the first message after the last reply
        for place in self.places:
            said_until = replies[-1][1] if replies else 0
            prompt = self.template.render(self.messages[:place], add_generation_prompt=True)
            if not whole.startswith(prompt):
                self._refuse_inconsistent(f"it stops before the reply in message {place + 1}", prompt, whole)
            self._expect_all_said(before, place, prompt[said_until:])
            replies.append((len(prompt), self._end(place, prompt, whole, end_token)))
            before = place + 1
        self._expect_all_said(before, len(self.messages), whole[replies[-1][1] if replies else 0 :])
        return Rendering(whole, tuple(replies))

    def _end(self, place: int, prompt: str, whole: str, end_token: re.Pattern[str]) -> int:
        """Where the reply in message `place` ends, its end token included."""
        is_continued = self.continues_last and place == len(self.messages) - 1
        is_whole = is_continued or (place == len(self.messages) - 1 and not self.options["add_generation_prompt"])
        shown = whole if is_whole else self.template.render(self.messages[: place + 1])
        if not shown.startswith(prompt):
            self._refuse_inconsistent(f"it stops after the reply in message {place + 1}", shown, whole)
        reply, said = shown[len(prompt) :], "".join(texts_of(self.messages[place]))
        leads = range(len(reply) - len(reply.lstrip()) + 1)
        start = next((lead for lead in leads if reply.startswith(said, lead)), None)
        if start is None:
            self._refuse_changed(place, reply, said)
        tail = start + len(said)
        if is_continued:
            if reply[tail:]:
                self._refuse(f"after the reply that is to be continued, it writes {shortened(reply[tail:])!r}.")
            return len(whole)
        found = end_token.match(reply, tail)
        if self.messages[place].get("tool_calls"):  # they are said, too, and a special token may open them
            *_, found = None, *end_token.finditer(reply, tail)
        if found is None:
            after = f"comes {shortened(reply[tail:])!r}" if reply[tail:].strip() else "comes nothing more"
            self._refuse(
                f"no special token of the tokenizer ends the reply in message {place + 1}: after {shortened(said)!r} "
                f"{after}, so the model could not learn where to stop."
            )
        end = len(prompt) + found.end()
        if not whole.startswith(shown[:end]):
            self._refuse_inconsistent(f"it stops after the reply in message {place + 1}", shown[:end], whole)
        return end

    def marked(self, control_tokens: Iterable[str]) -> Rendering:
        whole, marks = self.template.render_marked(self.messages, **self.options)
        said = [[text.strip() for text in texts_of(self.messages[place]) if text.strip()] for place in self.places]
        if any(said) and not marks:
            self._refuse("it has {% generation %} marks, but does not mark what the assistant says here.")
        if any(start < end for (_, end), (start, _) in pairwise(marks)):
            self._refuse("its {% generation %} marks lie within one another.")
        self._expect_marked(said, whole, marks)
        self._expect_marked_end(whole, marks, _end_token(control_tokens))
        self._expect_nothing_dropped(whole)
        if marks and self.places[-1:] == [len(self.messages) - 1] and not self._begins_with_reply(whole, marks[-1]):
            self._refuse_marked_header(whole, marks[-1])
        return Rendering(whole, marks)

    def _expect_marked(self, said: Sequence[Sequence[str]], whole: str, marks: Sequence[Span]) -> None:
        """A template may drop what was said earlier; what it shows must be marked, each reply by a mark of its own.

        Replies are laid beside marks from the last ones on; one that finds none must not stand outside of them, either.
        """
        texts = [whole[start:end] for start, end in marks]
        ends = [0, *(place for mark in marks for place in mark), len(whole)]
        outside = "\n".join(whole[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True))
        left = len(texts)
        for reply in reversed(said):
            free = left  # the texts of one reply may share a mark, or have several
            for text in reversed(reply):
                place = next((place for place in reversed(range(free)) if text in texts[place]), None)
                if place is not None:
                    free, left = place + 1, place
                elif text in outside:
                    found = f"they enclose {shortened(texts[0])!r}" if texts else "they enclose nothing"
                    self._refuse(
                        f"its {{% generation %}} marks miss the reply {shortened(text)!r}: {found}. Marks inside a "
                        "macro or a block assignment are not seen in their place: put them into the loop over the "
                        "messages."
                    )

    def _expect_marked_end(self, whole: str, marks: Sequence[Span], end_token: re.Pattern[str]) -> None:
        """A special token right behind what was said last ends it, so it has to be in the mark to be learned."""
        is_said = self.places[-1:] == [len(self.messages) - 1] and not any(self.options.values())
        said = "".join(texts_of(self.messages[-1])).strip()
        if not (marks and is_said and said):
            return
        follows = end_token.match(whole, marks[-1][1])
        if follows and whole[slice(*marks[-1])].rstrip().endswith(said):
            self._refuse(
                f"its {{% generation %}} marks leave {follows[0].strip()!r} out, which follows {shortened(said)!r}, so "
                "the model could not learn where to stop."
            )

    def _expect_nothing_dropped(self, whole: str) -> None:
        """A template with marks may write a prompt in its own way, and leave earlier turns out, but not all of what it
        is told: no word of a leading system message, or of a message behind the last reply but one, is to be seen."""
        last = self.places[-1] if self.places[-1:] == [len(self.messages) - 1] else len(self.messages)
        first = max((place + 1 for place in self.places if place < last), default=0)
        leading = [0] if self.messages[0]["role"] == "system" else []
        for place in dict.fromkeys([*leading, *range(first, last)]):
            for text in texts_of(self.messages[place]):
                words = re.findall(r"\w+", text)
                if words and not any(word in whole for word in words):
                    self._refuse(
                        f"it drops message {place + 1} ({self.messages[place]['role']}): no word of "
                        f"{shortened(text)!r} is in {shortened(whole)!r}.",
                        remedy=False,
                    )

    def _begins_with_reply(self, whole: str, mark: Span) -> bool:
        """Whether the mark begins with what was said, so no header can be in it (and no rendering is needed to see)."""
        said = "".join(texts_of(self.messages[-1]))
        return bool(said) and whole.startswith(said, mark[0])

    def _refuse_marked_header(self, whole: str, mark: Span) -> None:
        prompt = self.template.render(self.messages[:-1], add_generation_prompt=True)
        if whole.startswith(prompt) and mark[0] < len(prompt) < mark[1]:
            self._refuse(
                f"its {{% generation %}} marks enclose {shortened(whole[mark[0] : len(prompt)])!r}, which "
                "add_generation_prompt gives before the reply: begin the mark after it.",
                remedy=False,
            )

    def _expect_all_said(self, start: int, stop: int, block: str) -> None:
        """Every text of the prompt messages from `start` to `stop` stands in their block, but for outer whitespace."""
        for place in range(start, stop):
            for text in texts_of(self.messages[place]):
                if text.strip() not in block:
                    self._refuse(
                        f"it drops or changes message {place + 1} ({self.messages[place]['role']}): "
                        f"{shortened(text)!r} is not in {shortened(block)!r}."
                    )

    def _refuse_clock(self) -> None:
        """A date is another one tomorrow. Where the template may ask for it, it is rendered without a clock."""
        if not self.template.asks_the_clock:
            return
        try:
            self.template.render(self.messages, **self.options, strftime_now="no clock")
        except ChatTemplateError:
            self._refuse(
                "it writes today's date (strftime_now), so the same conversation is another one tomorrow: pass the "
                "variable that it takes instead, often date_string='26 July 2024', or mark the replies."
            )

    def _refuse_changed(self, place: int, reply: str, said: str) -> NoReturn:
        if (header := reply.partition(said)[0]) != reply and said:
            self._refuse(
                f"before the reply in message {place + 1} it writes {shortened(header)!r}, which add_generation_prompt "
                "does not give, so whether the model has to say it is not known."
            )
        self._refuse(
            f"it changes the reply in message {place + 1}: {shortened(said)!r} was said, and it writes "
            f"{shortened(reply)!r}."
        )

    def _refuse_inconsistent(self, when: str, shown: str, whole: str) -> NoReturn:
        """The two renderings, around their first difference."""
        pairs = enumerate(zip(shown, whole, strict=False))
        at = next((place for place, (one, other) in pairs if one != other), min(len(shown), len(whole)))
        around = slice(max(at - 30, 0), at + 40)
        self._refuse(
            f"it renders this conversation differently when {when}. Then it has {shown[around]!r}, and in the whole "
            f"conversation {whole[around]!r}, so which text is the reply is not known."
        )

    def _refuse(self, problem: str, remedy: bool = True) -> NoReturn:
        raise ChatTemplateError(f"the chat template cannot be used as it is: {problem}{' ' + REMEDY if remedy else ''}")


def expect_images(rendering: Rendering, messages: Sequence[Message], image_token: str) -> None:
    """Raises ChatTemplateError unless the text has one placeholder an image of the messages."""
    written, given = rendering.text.count(image_token), count_images(messages)
    if written != given:
        raise ChatTemplateError(
            f"the chat template writes {written} placeholders {image_token!r} for {given} images, in "
            f"{shortened(rendering.text)!r}: let it write one for every image part, or take content as a string."
        )
