"""Attention policies: which modality may look ahead to which, inside one prompt block.

A policy says nothing about causality, documents or padding: those hold for every policy (see `reference.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mutua.roles import Modality


@dataclass(frozen=True)
class Policy:
    """A named set of (query modality, key modality) pairs that may look ahead within a block.

    Attributes:
        name: the name that configs save.
        summary: the policy in one sentence.
        looks_ahead: pairs (q, k): a token of modality q also sees LATER tokens of modality k of its own block.
    """

    name: str
    summary: str
    looks_ahead: frozenset[tuple[Modality, Modality]]

    @property
    def is_causal(self) -> bool:
        """True if nothing ever looks ahead, so that plain causal attention is exact."""
        return not self.looks_ahead

    def table(self, device: torch.device | str | None = None) -> Tensor:
        """`looks_ahead` as a bool matrix, (query modality, key modality)."""
        table = torch.zeros(len(Modality), len(Modality), dtype=torch.bool, device=device)
        for query, key in self.looks_ahead:
            table[query, key] = True
        return table


CAUSAL = Policy("causal", "Every token sees only what came before it.", frozenset())

MMA = Policy(
    "mma",
    "Modality-mutual attention: images (and other non-text tokens) also see the text that follows them in their block.",
    # arXiv 2503.02597, section 3: within one modality attention stays causal, text stays causal.
    frozenset((modality, Modality.TEXT) for modality in Modality if modality is not Modality.TEXT),
)

POLICIES: dict[str, Policy] = {policy.name: policy for policy in (CAUSAL, MMA)}


def get_policy(name: str) -> Policy:
    """The policy of that name; ValueError with the known names otherwise."""
    try:
        return POLICIES[name]
    except KeyError:
        raise ValueError(f"unknown attention policy {name!r}: use one of {', '.join(POLICIES)}.") from None
