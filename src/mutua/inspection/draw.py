"""Drawing a mask: which token of a conversation sees which, policies side by side.

A drawing needs no model and no tokenizer: words stand for text tokens, and an image is cut down to a few tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mutua.attention import allowed_mask
from mutua.attention.policy import Policy
from mutua.roles import Modality, TokenRoles

# Cells, by index into the palette: not allowed, allowed by causality, allowed because the policy looks ahead.
_HIDDEN, _CAUSAL, _AHEAD = range(3)
_COLOURS = ("#f4f4f4", "#3d5a80", "#ee6c4d")
_GLYPHS = ("·", "■", "◆")
_ROLE_COLOURS = {"image": "#b5541c", "prompt": "#222222", "response": "#2a7f3e"}


@dataclass(frozen=True)
class Sketch:
    """A conversation as a few labelled tokens: `labels` and `kinds` ("image", "prompt", "response") per token."""

    labels: tuple[str, ...]
    kinds: tuple[str, ...]
    roles: TokenRoles


def sketch(messages: Iterable[dict[str, Any]], image_tokens: int = 4) -> Sketch:
    """Words and shortened images of a conversation in Transformers' chat format.

    A reply's header ("assistant:") belongs to the block before it, as the rule has it.
    """
    labels: list[str] = []
    kinds: list[str] = []
    images = 0
    for message in messages:
        is_reply = message["role"] == "assistant"
        labels.append(f"{message['role']}:")
        kinds.append("prompt")
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "image":
                images += 1
                labels += [f"image {images}"] * image_tokens
                kinds += ["image"] * image_tokens
            else:
                words = part["text"].split()
                labels += words
                kinds += ["response" if is_reply else "prompt"] * len(words)
    if not labels:
        raise ValueError("the conversation is empty: give it at least one message.")
    roles = TokenRoles.from_responses(
        torch.tensor([[kind == "response" for kind in kinds]]),
        torch.tensor([[int(Modality.IMAGE if kind == "image" else Modality.TEXT) for kind in kinds]]),
        torch.zeros(1, len(kinds), dtype=torch.long),
    )
    return Sketch(tuple(labels), tuple(kinds), roles)


def cells(drawn: Sketch, policy: Policy) -> list[list[int]]:
    """The mask as rows of palette indices: hidden, seen by causality, seen by looking ahead."""
    allowed_NN = allowed_mask(policy, drawn.roles)[0]
    ahead_NN = allowed_NN & torch.ones_like(allowed_NN).triu(1)
    return torch.where(ahead_NN, _AHEAD, torch.where(allowed_NN, _CAUSAL, _HIDDEN)).tolist()


def as_text(drawn: Sketch, policy: Policy) -> str:
    """The mask for a terminal: a line a query, a column a key."""
    width = max(map(len, drawn.labels))
    lines = [f"{policy.name}: {policy.summary}"]
    for label, row in zip(drawn.labels, cells(drawn, policy), strict=True):
        lines.append(f"{label:>{width}} {' '.join(_GLYPHS[cell] for cell in row)}")
    return "\n".join(lines)


def as_figure(drawn: Sketch, policies: Sequence[Policy], path: str | Path) -> None:
    """Writes a PNG or SVG, by the suffix of `path`: a panel a policy, rows are queries, columns keys."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "mutua[train]"') from error
    size = len(drawn.labels)
    side = max(3.0, 0.2 * size)
    figure = Figure(figsize=(len(policies) * (side + 0.4) + 1.0, side + 1.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(policies), squeeze=False)[0]
    for axes, policy in zip(panels, policies, strict=True):
        axes.imshow(cells(drawn, policy), cmap=ListedColormap(_COLOURS), vmin=0, vmax=2)
        axes.set_xticks(range(size), drawn.labels, rotation=90, fontsize=7)
        axes.set_yticks(range(size), drawn.labels, fontsize=7)
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            for label, kind in zip(labels, drawn.kinds, strict=True):
                label.set_color(_ROLE_COLOURS[kind])
        axes.set_xticks([x - 0.5 for x in range(1, size)], minor=True)
        axes.set_yticks([x - 0.5 for x in range(1, size)], minor=True)
        axes.grid(which="minor", color="white", linewidth=0.8)
        axes.tick_params(which="both", length=0)
        axes.set_title(policy.name)
        axes.set_xlabel("seen (key)")
    panels[0].set_ylabel("sees (query)")
    legend = ("not seen", "earlier token", "later token: looking ahead")
    figure.legend(
        [Patch(facecolor=colour, edgecolor="0.7") for colour in _COLOURS],
        legend,
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    figure.savefig(path)
