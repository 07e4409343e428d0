"""A mask as a few kernel calls: causal squares on the diagonal and dense rectangles, found from the roles of a batch.

A document's real tokens form a causal square. On top of it come rectangles: a run of queries of one modality sees the
later runs of its block that its modality looks ahead to, and every query sees the cached keys. No cell is covered twice
and no N x N mask is ever built. Rows of the batch that hold the same shape share one kernel call.

Shape suffixes: B batch, N tokens of this forward, K all keys (cached ones included), F role fields.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from mutua.attention.policy import Policy
from mutua.roles import NONE, TokenRoles

Range: TypeAlias = tuple[int, int]
"""First index, and one past the last."""


@dataclass(frozen=True)
class Pass:
    """One kernel call: in each of `rows`, every one of `queries` sees every one of `keys`, or those up to itself.

    Attributes:
        rows: of the batch.
        queries: among the tokens of this forward.
        keys: columns of the key tensor, in ascending disjoint ranges.
        is_causal: a square on the diagonal of which only the lower triangle counts.
    """

    rows: Range
    queries: Range
    keys: tuple[Range, ...]
    is_causal: bool

    @property
    def cells(self) -> int:
        """Number of (query, key) pairs that this call lets see each other."""
        rows, queries = (last - first for first, last in (self.rows, self.queries))
        keys = sum(last - first for first, last in self.keys)
        return rows * (queries * (queries + 1) // 2 if self.is_causal else queries * keys)


@dataclass(frozen=True)
class _Run:
    """Neighbouring tokens of the same document, block and modality."""

    tokens: Range
    document: int
    block: int
    modality: int


_Shape: TypeAlias = tuple[bool, Range, tuple[Range, ...]]
"""A pass of one row: whether it is causal, its queries and its keys."""


def find_passes(policy: Policy, roles: TokenRoles, padding_BK: Tensor | None = None, past: int = 0) -> tuple[Pass, ...]:
    """All that the policy lets the tokens of this forward see, causal squares first.

    Args:
        policy: must be rectangular.
        roles: of the tokens of this forward.
        padding_BK: bool, false where a key is padding; keys beyond its last column are padding, too.
        past: number of cached keys; the tokens of this forward follow them.
    """
    batch, tokens = roles.document_BN.shape
    document_BN = roles.document_BN
    if padding_BK is not None:
        padding_BK = torch.nn.functional.pad(padding_BK, (0, max(0, past + tokens - padding_BK.shape[1])))
        document_BN = document_BN.masked_fill(~padding_BK[:, past : past + tokens], NONE)
    # One copy to the CPU a forward: which kernel to call on which slice is decided there.
    fields_BFN = torch.stack([document_BN, roles.block_BN, roles.modality_BN], 1).cpu()
    cached_BK = torch.ones(batch, past, dtype=torch.bool) if padding_BK is None else padding_BK[:, :past].cpu()

    rows_of: dict[_Shape, list[int]] = defaultdict(list)
    for row in range(batch):
        runs = [run for run in _runs(fields_BFN[row]) if run.document != NONE]
        cached = [keys for keys, (is_real,) in _constant(cached_BK[row][None]) if is_real]
        for shape in [*_past_and_present(runs, cached, past), *_future(policy, runs, past)]:
            rows_of[shape].append(row)
    passes = [
        Pass(rows, queries, keys, is_causal)
        for (is_causal, queries, keys), indices in rows_of.items()
        for rows in _merge((row, row + 1) for row in indices)
    ]
    return tuple(sorted(passes, key=lambda part: not part.is_causal))


def _constant(fields_FN: Tensor) -> list[tuple[Range, list[int]]]:
    """The longest ranges over which no field changes, and the fields' values there."""
    tokens = fields_FN.shape[1]
    if tokens == 0:
        return []
    changes = (fields_FN[:, 1:] != fields_FN[:, :-1]).any(0).nonzero()[:, 0] + 1
    firsts = [0, *changes.tolist()]
    return list(zip(zip(firsts, [*firsts[1:], tokens], strict=True), fields_FN[:, firsts].T.tolist(), strict=True))


def _runs(fields_FN: Tensor) -> list[_Run]:
    return [_Run(tokens, *values) for tokens, values in _constant(fields_FN)]


def _past_and_present(runs: list[_Run], cached: list[Range], past: int) -> Iterator[_Shape]:
    """The causal squares of one row, and what their queries see before them."""
    before: dict[int, list[Range]] = defaultdict(lambda: list(cached))
    for document, segment in _segments(runs):
        keys = (segment[0] + past, segment[1] + past)
        yield True, segment, (keys,)
        if before[document]:  # behind a cache, or behind padding in the midst of a document
            yield False, segment, tuple(_merge(before[document]))
        before[document].append(keys)


def _future(policy: Policy, runs: list[_Run], past: int) -> Iterator[_Shape]:
    """The rectangles of one row in which queries look ahead."""
    for index, run in enumerate(runs):
        ahead = [
            (later.tokens[0] + past, later.tokens[1] + past)
            for later in runs[index + 1 :]
            if (later.document, later.block) == (run.document, run.block)  # each document counts its own blocks
            and run.block != NONE
            and (run.modality, later.modality) in policy.looks_ahead
        ]
        if ahead:
            yield False, run.tokens, tuple(_merge(ahead))


def _segments(runs: list[_Run]) -> list[tuple[int, Range]]:
    """Documents and their ranges, one range each unless padding cuts them."""
    segments: list[tuple[int, Range]] = []
    for run in runs:
        if segments and segments[-1][0] == run.document and segments[-1][1][1] == run.tokens[0]:
            segments[-1] = (run.document, (segments[-1][1][0], run.tokens[1]))
        else:
            segments.append((run.document, run.tokens))
    return segments


def _merge(ranges: Iterable[Range]) -> list[Range]:
    """Joins ascending ranges that touch."""
    merged: list[Range] = []
    for first, last in ranges:
        if merged and merged[-1][1] == first:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged
