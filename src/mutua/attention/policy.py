"""Attention policies: who may look ahead to whom, inside one prompt block. Each a few lines; `mutua mask` draws them.

A policy says nothing about documents and padding: those hold for every policy (see `rule.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from mutua.roles import NONE, Modality, TokenRoles

Pairs = frozenset[tuple[Modality, Modality]]

_VISUAL = (Modality.IMAGE, Modality.VIDEO)
_NOT_TEXT = tuple(modality for modality in Modality if modality is not Modality.TEXT)


@dataclass(frozen=True)
class Policy:
    """A named way to relax (or, inside one image, to replace) causality.

    Attributes:
        name: the name that configs save.
        summary: the policy in one sentence.
        source: where it comes from.
        looks_ahead: pairs (q, k): a token of modality q also sees LATER tokens of modality k of its own block.
        within_item: how the tokens of one image see each other: "causal"; "both-ways"; or "rings", where a token sees
            its own ring of the patch grid and all rings further out.
    """

    name: str
    summary: str
    source: str
    looks_ahead: Pairs = frozenset()
    within_item: Literal["causal", "both-ways", "rings"] = "causal"
    _sees: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Plain numbers, for a traced forward: Dynamo cannot walk a set of pairs of an enum.
        sees = (sum(1 << int(key) for query, key in self.looks_ahead if query == modality) for modality in Modality)
        object.__setattr__(self, "_sees", tuple(sees))

    @property
    def needs_roles_of_text(self) -> bool:
        """Whether it matters for a row of text alone which of it is prompt."""
        return any(query == Modality.TEXT for query, _ in self.looks_ahead)

    @property
    def is_causal(self) -> bool:
        """True if plain causal attention is exact."""
        return not self.looks_ahead and self.within_item == "causal"

    @property
    def is_rectangular(self) -> bool:
        """True if what the policy adds to causal attention is a union of (run of queries) x (later run of keys)."""
        return self.within_item == "causal" and not any(query == key for query, key in self.looks_ahead)

    def sees_bits(self, device: torch.device | str | None = None) -> Tensor:
        """`looks_ahead` by query modality, int64: bit m is set if it looks ahead to modality m."""
        return torch.tensor(self._sees, device=device)

    def looks_ahead_BN(self, roles: TokenRoles) -> Tensor:
        """Which tokens see later ones, if such are there, of their block or of their own image: bool (B, N)."""
        looks_BN = (self.sees_bits(roles.block_BN.device)[roles.modality_BN] != 0) & (roles.block_BN != NONE)
        return looks_BN if self.within_item == "causal" else looks_BN | (roles.item_BN != NONE)

    def positions(self, roles: TokenRoles) -> Tensor:
        """Position of every token for the position embedding, (B, N).

        One a token, but under "rings" one a ring: an image of side s takes s / 2 positions, rounded up.
        """
        if self.within_item != "rings":
            return roles.positions()
        ring_BN, side_BN = rings(roles)
        # How many positions a token uses up: one, but an image all of its rings at its last token.
        is_item_BN, is_last_BN = roles.item_BN != NONE, torch.ones_like(roles.item_BN, dtype=torch.bool)
        is_last_BN[:, :-1] = _changes_item(roles)
        used_BN = torch.where(is_item_BN, torch.where(is_last_BN, (side_BN + 1) // 2, 0), roles.is_token_BN.long())
        before_BN = used_BN.cumsum(-1) - used_BN
        starts_BN = roles.is_token_BN & (roles.positions() == 0)
        first_BN = torch.where(starts_BN, before_BN, 0).cummax(-1).values
        return torch.where(roles.is_token_BN, before_BN - first_BN + ring_BN, 0)


def rings(roles: TokenRoles) -> tuple[Tensor, Tensor]:
    """The ring of every image token (0 is the rim) and the side of its image's patch grid; (B, N), 0 on text.

    Raises ValueError for an image whose tokens are no square grid.
    """
    is_item_BN = roles.item_BN != NONE
    starts_BN = is_item_BN.clone()
    starts_BN[:, 1:] &= _changes_item(roles)
    run_BN = (starts_BN.long().cumsum(-1) - 1).clamp(min=0)
    index_N = torch.arange(roles.item_BN.shape[1], device=roles.item_BN.device)
    local_BN = index_N - torch.where(starts_BN, index_N, 0).cummax(-1).values
    sizes_BN = torch.zeros_like(run_BN).scatter_add(1, run_BN, is_item_BN.long())
    count_BN = torch.where(is_item_BN, sizes_BN.gather(1, run_BN), 0)
    side_BN = count_BN.double().sqrt().round().long()
    if bool((side_BN.square() != count_BN).any()):
        count = int(count_BN[side_BN.square() != count_BN][0])
        raise ValueError(
            f"an image of {count} tokens is no square grid, so it has no rings: use the connector 'mlp', or a square "
            "number of tokens."
        )
    row_BN = local_BN.div(side_BN.clamp(min=1), rounding_mode="floor")
    column_BN = local_BN - row_BN * side_BN
    ring_BN = torch.stack([row_BN, column_BN, side_BN - 1 - row_BN, side_BN - 1 - column_BN]).amin(0)
    return torch.where(is_item_BN, ring_BN, 0), side_BN


def _changes_item(roles: TokenRoles) -> Tensor:
    """Whether a token, of the second on, has another item than the one before; packed documents each count theirs."""
    is_other_BN = roles.item_BN[:, 1:] != roles.item_BN[:, :-1]
    return is_other_BN | (roles.document_BN[:, 1:] != roles.document_BN[:, :-1])


_MMA_SOURCE = "arXiv 2503.02597, section 3"
_FUTURE_SOURCE = "arXiv 2505.18605, section 3"

CAUSAL = Policy("causal", "Every token sees only what came before it.", "decoder-only language models")

MMA = Policy(
    "mma",
    "Modality-mutual attention: images (and other non-text tokens) also see the text that follows them in their block.",
    _MMA_SOURCE,
    frozenset((modality, Modality.TEXT) for modality in _NOT_TEXT),
)

MMA_BIDIRECTIONAL = Policy(
    "mma-bidirectional",
    "As mma, and the tokens of one image see each other both ways.",
    _MMA_SOURCE + "; both ways within an image as in Gemma 3 (arXiv 2503.19786)",
    MMA.looks_ahead,
    within_item="both-ways",
)

PREFIX = Policy(
    "prefix",
    "A prompt block sees all of itself, text included; replies stay causal.",
    "PaliGemma, arXiv 2407.07726, section 3.1",
    frozenset(product(Modality, Modality)),
)

FUTURE_VISUAL = Policy(
    "future-visual",
    "Visual tokens also see later visual tokens of their block (M^v2v).",
    _FUTURE_SOURCE,
    frozenset(product(_VISUAL, _VISUAL)),
)

FUTURE_TEXT = Policy(
    "future-text",
    "Visual tokens also see later text of their block (M^v2t); audio stays causal, unlike under mma.",
    _FUTURE_SOURCE,
    frozenset((visual, Modality.TEXT) for visual in _VISUAL),
)

FUTURE = Policy(
    "future",
    "Visual tokens also see later visual tokens and later text of their block (M^f).",
    _FUTURE_SOURCE,
    FUTURE_VISUAL.looks_ahead | FUTURE_TEXT.looks_ahead,
)

CONCENTRIC = Policy(
    "concentric",
    "Concentric causal attention: in an image, rings of patches in place of raster order, in mask and in positions.",
    "CCA, arXiv 2410.15926, section 4",
    within_item="rings",
)

POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (CAUSAL, MMA, MMA_BIDIRECTIONAL, PREFIX, FUTURE_VISUAL, FUTURE_TEXT, FUTURE, CONCENTRIC)
}


def get_policy(name: str) -> Policy:
    """The policy of that name; ValueError with the known names otherwise."""
    try:
        return POLICIES[name]
    except (KeyError, TypeError):  # no text at all, such as a list
        raise ValueError(f"unknown attention policy {name!r}: use one of {', '.join(POLICIES)}.") from None
