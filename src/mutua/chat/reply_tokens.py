"""From characters to tokens: which tokens of a tokenized text are replies.

A token is on one side of a prompt/reply border or on the other. One that has characters of both is refused: at
generation the prompt ends at the border, so the model would never meet that token there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

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
    borders = [border for span in spans for border in span]
    is_reply = [False] * len(ids)
    done, before = 0, 0  # where the last token ended and began
    nth = 0  # borders passed, of which every odd one opens a span
    for place, (start, end) in enumerate([*offsets, (len(text), len(text))]):
        if end == 0:
            continue
        # Byte-level tokenizers may leave the spaces at either end of a token out of its offsets, so whose they are is
        # not known. What follows takes them for this token's, and has every border that touches them looked at.
        gap = done < start and text[done:start].isspace()
        first = done if gap else start
        while nth < len(borders) and borders[nth] < end:
            border = borders[nth]
            if gap and done <= border <= start:
                found, expected = tokenize(text[:border]), _with_text(ids[:place], offsets)
                if found != expected:
                    is_this = found[: len(expected)] == expected
                    _refuse(text, (first, end) if is_this else (before, start), border)
            elif start < border:
                swallows = ids[place] in control_ids
                if swallows and text[border:end].isspace():
                    break
                if not (swallows and text[start:border].isspace()):
                    _refuse(text, (start, end), border)
            nth += 1
        if place < len(ids):
            is_reply[place] = nth % 2 == 1
        done, before = max(done, end), first
    return is_reply


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
