"""From characters to tokens: which tokens of a tokenized text are replies.

A token is on one side of a prompt/reply border or on the other. One that has characters of both is refused: at
generation the prompt ends at the border, so the model would never meet that token there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mutua.models.chat_template import Span


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
    done, nth = 0, 0  # where the last token ended; borders passed, of which every odd one opens a span
    for place, (start, end) in enumerate(offsets):
        if end == 0:
            continue
        # Byte-level tokenizers leave leading spaces out of offsets, so what lies between two tokens is the second's.
        first = done if done < start and text[done:start].isspace() else start
        while nth < len(borders) and borders[nth] <= first:
            nth += 1
        while nth < len(borders) and borders[nth] < end:
            border = borders[nth]
            if start < border and ids[place] in control_ids and text[border:end].isspace():
                break  # whitespace that it swallowed
            swallowed = ids[place] in control_ids and text[first:border].isspace()
            dropped = border <= start and tokenize(text[:border]) == _before(ids, offsets, place)
            if not swallowed and not dropped:
                raise ValueError(
                    f"the token {text[first:end]!r} straddles the border between prompt and reply, "
                    f"{text[first:border]!r} | {text[border:end]!r}, in {text[max(first - 30, 0) : end + 30]!r}: let "
                    "the chat template end its headers so that the tokenizer cuts there (without a trailing space, "
                    "or with a special token)."
                )
            first = border
            nth += 1
        is_reply[place] = nth % 2 == 1
        done = max(done, end)
    return is_reply


def _before(ids: Sequence[int], offsets: Sequence[Span], place: int) -> list[int]:
    """The ids before `place`, without those that stand for no text."""
    return [ids[nth] for nth in range(place) if offsets[nth][1] != 0]
