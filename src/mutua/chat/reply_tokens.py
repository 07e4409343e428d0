"""From characters to tokens: which tokens of a tokenized text are replies.

A token is on one side of a prompt/reply border or on the other. One that has characters of both is refused: at
generation the prompt ends at the border, so the model would never meet that token there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from mutua.chat.reply_spans import Rendering
from mutua.chat.template import Span


def shift(spans: Sequence[Span], replacements: Sequence[Mapping[str, Any]]) -> list[Span]:
    """Spans of a text after its placeholders were replaced by longer ones.

    `replacements` are Transformers' `text_replacement_offsets` of the text: "span" before, "new_span" after.
    """
    ends = [replacement["span"][1] for replacement in replacements]
    gained = [0, *(replacement["new_span"][1] - replacement["span"][1] for replacement in replacements)]
    return [(start + gained[bisect_right(ends, start)], end + gained[bisect_right(ends, end)]) for start, end in spans]


def expand(text: str, replacements: Sequence[Mapping[str, Any]]) -> str:
    """The text with its placeholders replaced, as it is tokenized."""
    pieces, done = [], 0
    for replacement in replacements:
        start, end = replacement["span"]
        pieces += [text[done:start], replacement["replacement"]]
        done = end
    return "".join([*pieces, text[done:]])


def tokenize_rendering(
    tokenizer: Any, rendering: Rendering, control_ids: set[int]
) -> tuple[list[int], list[Span], list[bool]]:
    """A rendered chat, placeholders as they are: its tokens, their characters, and which of them are replies."""
    encoded = tokenizer(rendering.text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]

    def tokenize(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return ids, offsets, reply_tokens(rendering.text, rendering.replies, offsets, ids, control_ids, tokenize)


def reply_tokens(
    text: str,
    spans: Sequence[Span],
    offsets: Sequence[Span],
    ids: Sequence[int],
    control_ids: set[int],
    tokenize: Callable[[str], list[int]],
) -> list[bool]:
    """Which tokens belong to the spans.

    Args:
        text: what was tokenized.
        spans: characters (start, end), in order and disjoint.
        offsets: characters of every token; a token that stands for no text, such as one that the tokenizer put in
            front, has (0, 0).
        ids: the tokens.
        control_ids: ids of special tokens, which may swallow the whitespace beside them.
        tokenize: text to ids with nothing added; asked where offsets leave out whitespace beside a border.

    Raises:
        ValueError: a token straddles a border; the message shows it.
    """
    ends = [end for _, end in offsets]
    while ends and ends[-1] == 0:  # put behind the text by the tokenizer
        ends.pop()
    is_reply = [False] * len(ids)
    place = 0
    for span in spans:
        first, last = (
            place := _first_behind(border, text, offsets, ends, ids, place, control_ids, tokenize) for border in span
        )
        is_reply[first:last] = [True] * (last - first)
    return is_reply


def _first_behind(
    border: int,
    text: str,
    offsets: Sequence[Span],
    ends: Sequence[int],
    ids: Sequence[int],
    place: int,
    control_ids: set[int],
    tokenize: Callable[[str], list[int]],
) -> int:
    """The first token, from `place` on, that is behind the border."""
    place = bisect_right(ends, border, place)
    if border == len(text):
        return place
    start, end = offsets[place] if place < len(ends) else (len(text), len(text))
    # Byte-level tokenizers may leave the spaces at either end of a token out of its offsets, so whose they are is not
    # known. What follows takes them for the next token's, and has every border that touches them looked at.
    done = ends[place - 1] if place else 0
    if done <= border <= start and done < start and text[done:start].isspace():
        found, expected = tokenize(text[:border]), _with_text(ids[:place], offsets)
        if found != expected:
            is_next = found[: len(expected)] == expected
            _refuse(text, (done, end) if is_next else (_beginning(place - 1, text, offsets, ends), start), border)
    elif start < border:
        swallows = ids[place] in control_ids
        if swallows and text[border:end].isspace():
            return place + 1
        if not (swallows and text[start:border].isspace()):
            _refuse(text, (start, end), border)
    return place


def _beginning(place: int, text: str, offsets: Sequence[Span], ends: Sequence[int]) -> int:
    """Where a token begins, with the whitespace before it that no token has."""
    start, done = offsets[place][0], ends[place - 1] if place else 0
    return done if done < start and text[done:start].isspace() else start


def _with_text(ids: Sequence[int], offsets: Sequence[Span]) -> list[int]:
    """The first ids, without those that stand for no text."""
    return [token for token, (_, end) in zip(ids, offsets, strict=False) if end != 0]


def _refuse(text: str, token: Span, border: int) -> NoReturn:
    start, end = token
    raise ValueError(
        f"the token {text[start:end]!r} straddles the border between prompt and reply, {text[start:border]!r} | "
        f"{text[border:end]!r}, in {text[max(start - 30, 0) : end + 30]!r}: let the chat template end its headers so "
        "that the tokenizer cuts there (without a trailing space, or with a special token)."
    )
