"""A sample token by token: who says it, whether it is trained on, and what it looks ahead to.

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor

from mutua.attention import Policy, allowed_mask
from mutua.data.collate import IGNORE, role_codes
from mutua.roles import NONE, Modality, TokenRoles

Role = Literal["prompt", "image", "response", "padding"]


@dataclass(frozen=True)
class Token:
    """One token of a row.

    Attributes:
        index: its place in the row.
        id: of the vocabulary.
        text: what it stands for; a part of a character is shown as U+FFFD.
        role: "prompt" is text that the model is given, "response" what it has to say.
        document: the number of its conversation within the row; None for padding.
        block: the number of its prompt block within the document; None outside of blocks.
        image: the number of its image within the document; None for text.
        label: whether it is trained on.
        looks_ahead: the later tokens that it sees, as runs (first index, last index).
    """

    index: int
    id: int
    text: str
    role: Role
    document: int | None
    block: int | None
    image: int | None
    label: bool
    looks_ahead: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Audit:
    """All tokens of a row under a policy."""

    policy: str
    tokens: tuple[Token, ...]

    @property
    def trained_on(self) -> int:
        """Tokens with a label."""
        return sum(token.label for token in self.tokens)

    @property
    def blocks(self) -> int:
        """Prompt blocks."""
        return len({(token.document, token.block) for token in self.tokens if token.block is not None})

    @property
    def images(self) -> int:
        return len({(token.document, token.image) for token in self.tokens if token.image is not None})

    @property
    def documents(self) -> int:
        """Conversations in the row."""
        return len({token.document for token in self.tokens} - {None})

    @property
    def padding(self) -> int:
        """Places that hold no token."""
        return sum(token.role == "padding" for token in self.tokens)

    @property
    def ahead_cells(self) -> int:
        """Cells of the attention mask above the diagonal: (token, later token that it sees)."""
        return sum(last - first + 1 for token in self.tokens for first, last in token.looks_ahead)

    def lines(self) -> list[list[Token]]:
        """The tokens, those of one image together."""
        return [list(group) for _, group in groupby(self.tokens, key=_line)]

    def passages(self) -> list[list[Token]]:
        """The tokens, those together that follow each other and have all but their text in common."""
        return [list(group) for _, group in groupby(self.tokens, key=_kind)]

    def text(self, spans: Iterable[tuple[int, int]]) -> str:
        """The text of the tokens in the spans, images left out."""
        tokens = (token for first, last in spans for token in self.tokens[first : last + 1])
        return "".join(token.text for token in tokens if token.image is None)


def _line(token: Token) -> tuple[Any, ...]:
    return (token.index,) if token.image is None else (token.document, token.image, "image")


def _kind(token: Token) -> tuple[Any, ...]:
    return token.document, token.role, token.block, token.image, token.label


def audit(batch: Mapping[str, Any], tokenizer: Any, policy: Policy, row: int = 0) -> Audit:
    """One row of a batch as `encode` or the processor returns it; without `labels`, nothing is trained on."""
    ids_N = batch["input_ids"][row]
    roles = TokenRoles.from_codes(role_codes(batch)[row : row + 1])
    labels_N = batch["labels"][row] if "labels" in batch else torch.full_like(ids_N, IGNORE)
    ahead_NN = allowed_mask(policy, roles)[0].triu(1)
    columns = (
        roles.document_BN,
        roles.block_BN,
        roles.item_BN,
        roles.modality_BN,
        roles.is_response_BN,
        roles.is_token_BN,
    )
    tokens = []
    for index, (token_id, document, block, item, modality, is_response, is_token) in enumerate(
        zip(ids_N.tolist(), *(column[0].tolist() for column in columns), strict=True)
    ):
        role: Role = "response" if is_response else "prompt" if modality == Modality.TEXT else "image"
        tokens.append(
            Token(
                index=index,
                id=token_id,
                text=_text(tokenizer, token_id),
                role=role if is_token else "padding",
                document=None if document == NONE else document,
                block=None if block == NONE else block,
                image=None if item == NONE else item,
                label=int(labels_N[index]) != IGNORE,
                looks_ahead=runs(ahead_NN[index].nonzero()[:, 0]),
            )
        )
    return Audit(policy.name, tuple(tokens))


def runs(places_N: Tensor) -> tuple[tuple[int, int], ...]:
    """Ascending numbers as runs (first, last)."""
    found: list[tuple[int, int]] = []
    for place in places_N.tolist():
        if found and place == found[-1][1] + 1:
            found[-1] = (found[-1][0], place)
        else:
            found.append((place, place))
    return tuple(found)


def _text(tokenizer: Any, token_id: int) -> str:
    text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    # SentencePiece drops the space in front of a text, and here every token is a text of its own.
    leads = str(tokenizer.convert_ids_to_tokens(token_id)).startswith("\u2581") and not text.startswith(" ")
    return " " + text if leads else text
