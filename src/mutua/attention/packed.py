"""Many squares and rectangles of uneven rows as a few kernel calls: their tokens, one after the other.

Rows of a batch that differ share no slice, so each would cost `split` calls of its own in every layer. Here the tokens
of all squares are gathered into one list, those of all rectangles into another, and a kernel that takes sequence
lengths computes each list at once. What is a list of tokens in a list of rows has one index, row * tokens + token.

Shape suffixes: B batch, H heads, N tokens of this forward (queries), K keys, D head dimension, T gathered tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mutua.attention.flash import Kernel, Lengths
from mutua.attention.rectangles import Pass, Range


@dataclass(frozen=True)
class Call:
    """One call of a kernel that takes sequence lengths.

    Attributes:
        q_T: which queries, of all rows one after the other; none twice.
        k_T: which keys, likewise; a key may serve several sequences.
        lengths: of the sequences.
        is_causal: squares of which only the lower triangle counts.
    """

    q_T: Tensor
    k_T: Tensor
    lengths: Lengths
    is_causal: bool


def pack(passes: tuple[Pass, ...], tokens: int, keys: int, device: torch.device) -> tuple[Call, ...]:
    """The passes in as few calls as can be: the squares first, then rectangles so that no call meets a query twice."""
    groups: list[list[Pass]] = []
    taken: list[list[tuple[Range, Range]]] = []
    for part in passes:
        for group, places in zip(groups, taken, strict=True):
            if group[0].is_causal == part.is_causal and not any(_overlap(part, place) for place in places):
                break
        else:
            groups.append(group := [])
            taken.append(places := [])
        group.append(part)
        places.append((part.rows, part.queries))
    return tuple(_call(group, tokens, keys, device) for group in groups)


def _overlap(part: Pass, place: tuple[Range, Range]) -> bool:
    return all(a[0] < b[1] and b[0] < a[1] for a, b in zip((part.rows, part.queries), place, strict=True))


def _call(group: list[Pass], tokens: int, keys: int, device: torch.device) -> Call:
    queries, seen, q_lengths, k_lengths = [], [], [], []
    for part in group:
        for row in range(*part.rows):
            queries.append(torch.arange(*part.queries) + row * tokens)
            seen += [torch.arange(*span) + row * keys for span in part.keys]
            q_lengths.append(part.queries[1] - part.queries[0])
            k_lengths.append(sum(last - first for first, last in part.keys))
    lengths = Lengths(_ends(q_lengths, device), _ends(k_lengths, device), tuple(q_lengths), tuple(k_lengths))
    return Call(torch.cat(queries).to(device), torch.cat(seen).to(device), lengths, group[0].is_causal)


def _ends(lengths: Iterable[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)


class PackedAttention(torch.autograd.Function):
    """softmax(q k^T * scale) v over the cells of the calls; zeros for queries in none."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BHND: Tensor,
        k_BHKD: Tensor,
        v_BHKD: Tensor,
        calls: tuple[Call, ...],
        kernel: Kernel,
        scale: float,
    ) -> Tensor:
        q_THD, k_THD, v_THD = (_tokens_first(x) for x in (q_BHND, k_BHKD, v_BHKD))
        out_THD = torch.zeros_like(q_THD)
        # Nothing was seen yet: whatever is merged into it takes the whole share.
        lse_TH = q_THD.new_full(q_THD.shape[:2], -torch.inf, dtype=torch.promote_types(q_THD.dtype, torch.float32))
        for call in calls:
            new_THD, new_TH = kernel.packed_forward(
                q_THD[call.q_T], k_THD[call.k_T], v_THD[call.k_T], call.lengths, call.is_causal, scale
            )
            if not call.is_causal:
                old_TH = lse_TH[call.q_T]
                share_TH1 = torch.sigmoid(new_TH - old_TH)[..., None]
                new_THD = torch.lerp(out_THD[call.q_T].to(share_TH1.dtype), new_THD.to(share_TH1.dtype), share_TH1)
                new_TH = torch.logaddexp(old_TH, new_TH)
            out_THD[call.q_T] = new_THD.to(out_THD.dtype)
            lse_TH[call.q_T] = new_TH
        ctx.save_for_backward(q_THD, k_THD, v_THD, out_THD, lse_TH)
        ctx.calls, ctx.kernel, ctx.scale, ctx.batch = calls, kernel, scale, q_BHND.shape[0]
        return _heads_first(out_THD, ctx.batch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHND: Tensor) -> tuple[Tensor | None, ...]:
        q_THD, k_THD, v_THD, out_THD, lse_TH = ctx.saved_tensors
        grad_THD = _tokens_first(grad_BHND)
        # Sums over calls in float32: a key may be in several.
        dq_THD, dk_THD, dv_THD = (torch.zeros_like(x, dtype=lse_TH.dtype) for x in (q_THD, k_THD, v_THD))
        for call in ctx.calls:
            gradients = ctx.kernel.packed_backward(
                grad_THD[call.q_T],
                q_THD[call.q_T],
                k_THD[call.k_T],
                v_THD[call.k_T],
                out_THD[call.q_T],
                lse_TH[call.q_T],
                call.lengths,
                call.is_causal,
                ctx.scale,
            )
            for into_THD, places_T, new_THD in zip(
                (dq_THD, dk_THD, dv_THD), (call.q_T, call.k_T, call.k_T), gradients, strict=True
            ):
                into_THD.index_add_(0, places_T, new_THD.to(into_THD.dtype))
        return *(_heads_first(x.to(q_THD.dtype), ctx.batch) for x in (dq_THD, dk_THD, dv_THD)), None, None, None


def _tokens_first(x_BHND: Tensor) -> Tensor:
    """(B, H, N, D) as (B * N, H, D)."""
    return x_BHND.transpose(1, 2).flatten(0, 1)


def _heads_first(x_THD: Tensor, batch: int) -> Tensor:
    """(B * N, H, D) as (B, H, N, D)."""
    return x_THD.unflatten(0, (batch, -1)).transpose(1, 2)
