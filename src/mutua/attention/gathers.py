"""Keys that lie in several ranges, copied side by side once a layer for all the passes of `split` that share them.

In a prompt with many pictures, or with a token that ends every row of one, each run of image tokens sees all text
behind it: text that later runs see, too. So the keys of an earlier run end with those of a later one, and one copy of
the longest serves them all.

Shape suffixes: B batch, H heads, K keys, D head dimension, S gathered keys.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from mutua.attention.rectangles import Pass, Range

Place: TypeAlias = tuple[int, int] | None
"""Which gathered keys are those of a pass, and the first of them (all up to the end are); None: its one range."""


@dataclass(frozen=True)
class Gather:
    """The keys of some rows, in several ranges.

    Attributes:
        rows: of the batch.
        keys: the ranges.
    """

    rows: Range
    keys: tuple[Range, ...]

    def of(self, x_BHKD: Tensor) -> Tensor:
        """Their copy, (rows, H, S, D)."""
        return x_BHKD[self.rows[0] : self.rows[1]].index_select(2, self._index(x_BHKD))

    def add_to(self, into_BHKD: Tensor, piece_BHSD: Tensor) -> None:
        """The reverse of `of`: adds the gradient of the copy where it came from."""
        into_BHKD[self.rows[0] : self.rows[1]].index_add_(2, self._index(into_BHKD), piece_BHSD)

    def _index(self, like: Tensor) -> Tensor:
        if like.device not in self._indices:
            self._indices[like.device] = torch.cat([torch.arange(*span) for span in self.keys]).to(like.device)
        return self._indices[like.device]

    @cached_property
    def _indices(self) -> dict[torch.device, Tensor]:
        return {}


def share_keys(passes: tuple[Pass, ...]) -> tuple[tuple[Gather, ...], tuple[Place, ...]]:
    """What to gather, and for every pass where its keys are."""
    alike: dict[tuple[Range, Range], list[Pass]] = defaultdict(list)
    for part in passes:
        if len(part.keys) > 1:
            alike[part.rows, part.keys[-1]].append(part)
    gathers: dict[Gather, int] = {}
    owner: dict[tuple[Range, tuple[Range, ...]], Gather] = {}
    for (rows, _), parts in alike.items():
        longest = max((part.keys for part in parts), key=len)
        for part in parts:
            is_end = longest[-len(part.keys) :] == part.keys
            gather = Gather(rows, longest if is_end else part.keys)
            gathers.setdefault(gather, len(gathers))
            owner[part.rows, part.keys] = gather
    places: list[Place] = []
    for part in passes:
        found = owner.get((part.rows, part.keys))
        if found is None:
            places.append(None)
        else:
            behind = found.keys[: len(found.keys) - len(part.keys)]
            places.append((gathers[found], sum(last - first for first, last in behind)))
    return tuple(gathers), tuple(places)
