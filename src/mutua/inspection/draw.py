"""Drawing a mask: which token of a conversation sees which, policies side by side.

A drawing needs no model and no tokenizer: words stand for text tokens, and an image is cut down to a few tokens. With a
model's processor, the tokens are its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mutua.attention import allowed_mask
from mutua.attention.policy import CAUSAL, Policy
from mutua.data.collate import role_codes
from mutua.figures import blank_figure
from mutua.inspection.audit import audit
from mutua.roles import Modality, TokenRoles

# Cells, by index into the palette: not allowed, allowed by causality, allowed because the policy looks ahead.
_HIDDEN, _CAUSAL, _AHEAD = range(3)
_COLOURS = ("#f4f4f4", "#3d5a80", "#ee6c4d")
_GLYPHS = ("·", "■", "◆")
_ROLE_COLOURS = {"image": "#b5541c", "prompt": "#222222", "response": "#2a7f3e"}

# A picture is to be read on a screen, so its size has an end: beyond `LABELLED` tokens it shows no single words, and
# beyond `LARGEST` not even single cells.
LABELLED, LARGEST = 80, 2048
_LONGEST_LABEL = 16  # characters
_INCH_A_TOKEN, _INCH_A_LETTER = 0.2, 0.06
_PANELS_A_ROW, _WIDEST_ROW = 4, 22.0  # inches


@dataclass(frozen=True)
class Sketch:
    """A conversation as a few labelled tokens: `labels` and `kinds` ("image", "prompt", "response") per token."""

    labels: tuple[str, ...]
    kinds: tuple[str, ...]
    roles: TokenRoles


def sketch(messages: Iterable[dict[str, Any]], image_tokens: int = 4) -> Sketch:
    """Words and shortened images of a conversation in Transformers' chat format.

    A reply's header ("assistant:") belongs to the block before it, as the rule has it. Raises ValueError where there
    is nothing to draw, or more than `LARGEST` tokens.
    """
    labels: list[str] = []
    kinds: list[str] = []
    images, begins = 0, []
    for message in messages:
        is_reply = message["role"] == "assistant"
        labels.append(f"{message['role']}:")
        kinds.append("prompt")
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "image":
                images += 1
                _refuse_too_many(len(labels) + image_tokens)
                begins += [len(labels)]
                labels += [f"image {images}"] * image_tokens
                kinds += ["image"] * image_tokens
            else:
                words = part["text"].split()
                labels += words
                kinds += ["response" if is_reply else "prompt"] * len(words)
    _refuse_too_many(len(labels))
    if not labels:
        raise ValueError("the conversation is empty: give it at least one message.")
    roles = TokenRoles.from_responses(
        torch.tensor([[kind == "response" for kind in kinds]]),
        torch.tensor([[int(Modality.IMAGE if kind == "image" else Modality.TEXT) for kind in kinds]]),
        torch.zeros(1, len(kinds), dtype=torch.long),
        torch.tensor([[place in begins for place in range(len(kinds))]]),
    )
    return Sketch(tuple(map(_fitted_label, labels)), tuple(kinds), roles)


def sketch_batch(batch: Mapping[str, Any], tokenizer: Any, image_tokens: int = 4) -> Sketch:
    """The tokens of a batch of one row, as `encode` makes it; of every image the first `image_tokens`.

    Raises ValueError for more than `LARGEST` tokens.
    """
    tokens = audit(batch, tokenizer, CAUSAL).tokens
    held: dict[int, int] = {}
    kept, labels, kinds = [], [], []
    for token in tokens:
        if token.image is not None:
            held[token.image] = held.get(token.image, 0) + 1
            if held[token.image] > image_tokens:
                continue
        kept.append(token.index)
        labels.append(_printable(token.text) if token.image is None else f"image {token.image + 1}")
        kinds.append(token.role)
    _refuse_too_many(len(labels))
    roles = TokenRoles.from_codes(role_codes(batch)[:, kept])
    return Sketch(tuple(map(_fitted_label, labels)), tuple(kinds), roles)


def _printable(text: str) -> str:
    """A token's text without the space before it; in quotes and escaped where it would not show."""
    return text.strip() if text.strip() and text.strip().isprintable() else repr(text)


def _refuse_too_many(tokens: int) -> None:
    if tokens > LARGEST:
        raise ValueError(
            f"the conversation has at least {tokens:,} tokens, and at most {LARGEST:,} are drawn: take fewer tokens an "
            "image (--image-tokens) or a shorter conversation."
        )


def _fitted_label(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def cells(drawn: Sketch, policy: Policy) -> Tensor:
    """The mask as palette indices, uint8 (N, N): hidden, seen by causality, seen by looking ahead."""
    allowed_NN = allowed_mask(policy, drawn.roles)[0]
    ahead_NN = allowed_NN & torch.ones_like(allowed_NN).triu(1)
    return torch.where(ahead_NN, _AHEAD, torch.where(allowed_NN, _CAUSAL, _HIDDEN)).to(torch.uint8)


def as_text(drawn: Sketch, policy: Policy) -> str:
    """The mask for a terminal: a line a query, a column a key. ValueError for more than `LABELLED` tokens."""
    size = len(drawn.labels)
    if size > LABELLED:
        raise ValueError(
            f"the conversation has {size} tokens, and text shows {LABELLED} at most: draw a picture (--output "
            "mask.png), or take fewer tokens an image (--image-tokens) or a shorter conversation."
        )
    width = max(map(len, drawn.labels))
    lines = [f"{policy.name}: {policy.summary}"]
    for label, row in zip(drawn.labels, cells(drawn, policy).tolist(), strict=True):
        lines.append(f"{label:>{width}} {' '.join(_GLYPHS[cell] for cell in row)}")
    return "\n".join(lines)


def as_figure(drawn: Sketch, policies: Sequence[Policy], path: str | Path) -> None:
    """Writes a PNG or SVG, by the suffix of `path`: a panel a policy, rows are queries, columns keys.

    Up to `LABELLED` tokens each has its label; of more, the first of every image and of every run of text has.

    Raises ImportError where matplotlib is missing.
    """
    size = len(drawn.labels)
    ticks = list(range(size)) if size <= LABELLED else _landmarks(drawn)
    labels = [drawn.labels[tick] for tick in ticks]
    side = min(max(_INCH_A_TOKEN * size, 3.0), 9.0) if size <= LABELLED else 6.0
    beside = 0.4 + _INCH_A_LETTER * max(map(len, labels))  # room for labels, left of a panel and under it
    columns = max(1, min(_PANELS_A_ROW, int(_WIDEST_ROW / (side + beside)), len(policies)))
    rows = math.ceil(len(policies) / columns)
    columns = math.ceil(len(policies) / rows)  # as even as can be: 3 and 2 rather than 4 and 1
    figure = blank_figure(columns * (side + beside), rows * (side + beside + 0.4) + 0.5)
    from matplotlib.patches import Patch

    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, policy in zip(panels, policies, strict=False):
        _draw_panel(axes, cells(drawn, policy), ticks, labels, [drawn.kinds[tick] for tick in ticks])
        axes.set_title(policy.name, fontsize=11)
    for axes in panels[len(policies) :]:
        axes.set_axis_off()
    figure.legend(
        [Patch(facecolor=colour, edgecolor="0.7") for colour in _COLOURS],
        ("not seen", "earlier token", "later token: looking ahead"),
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    figure.savefig(path)


def _draw_panel(axes: Any, cells_NN: Tensor, ticks: Sequence[int], labels: Sequence[str], kinds: Sequence[str]) -> None:
    from matplotlib.colors import ListedColormap

    size = len(cells_NN)
    # A cell smaller than a dot is mixed with its neighbours as a colour: a lone one does not vanish.
    axes.imshow(cells_NN.numpy(), cmap=ListedColormap(_COLOURS), vmin=0, vmax=2, interpolation_stage="rgba")
    axes.set_xticks(ticks, labels, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(ticks, labels, fontsize=7, parse_math=False)
    for texts in (axes.get_xticklabels(), axes.get_yticklabels()):
        for text, kind in zip(texts, kinds, strict=True):
            text.set_color(_ROLE_COLOURS[kind])
    if size <= LABELLED:
        axes.set_xticks([x - 0.5 for x in range(1, size)], minor=True)
        axes.set_yticks([x - 0.5 for x in range(1, size)], minor=True)
        axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("seen (key)")
    axes.set_ylabel("sees (query)")


def _landmarks(drawn: Sketch) -> list[int]:
    """Where images and runs of text begin, as far apart as their labels need."""
    tokens = list(zip(drawn.kinds, drawn.labels, strict=True))
    found = [0]
    for index in range(1, len(tokens)):
        kind, label = tokens[index]
        begins = kind != tokens[index - 1][0] or (kind == "image" and label != tokens[index - 1][1])
        if begins and index - found[-1] >= len(tokens) / LABELLED:
            found.append(index)
        elif begins and kind == "image":  # rather than the header before it
            found[-1] = index
    return found
