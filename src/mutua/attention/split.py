"""The split backend: exact look-ahead attention at the speed of causal flash attention, with no N x N mask.

The mask is a causal pass over each document and a dense pass over each rectangle in which queries look ahead (see
`rectangles.py`). Two passes over the same queries merge by their log-sum-exps, L = logaddexp(l1, l2) and
out = o1 * exp(l1 - L) + o2 * exp(l2 - L); backward, each pass's own flash kernel gets the MERGED output and the MERGED
log-sum-exp, and the gradients add up. Under `torch.compile` planning and attention run as a graph break.

Shape suffixes: B batch, H heads, N tokens of this forward (queries), K keys, D head dimension, Q queries of one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.masking_utils import causal_mask_function
from transformers.models.llama.modeling_llama import repeat_kv

from mutua.attention import sdpa
from mutua.attention.abilities import Forward, compute_dtype, refuse_unable, why_not
from mutua.attention.flash import Kernel, find_kernel
from mutua.attention.gathers import Gather, Place, share_keys
from mutua.attention.packed import Call, PackedAttention, pack
from mutua.attention.rectangles import Pass, Range, find_passes
from mutua.attention.request import MaskRequest, expect_request

NAME = "mutua_split"


# So many kernel calls may a layer make before the tokens of all its squares, and of all its rectangles, are gathered
# for one call each. On a CPU calls cost little and gathering does not pay: `python benchmarks/attention.py --rows 16`.
MOST_CALLS: dict[str, float] = {"cpu": math.inf, "cuda": 4}


@dataclass(frozen=True)
class Plan:
    """What `build_mask` hands to every layer: the kernel calls of this forward.

    Attributes:
        passes: one call each.
        packed: the same in as few calls as can be; None where `passes` are few.
    """

    passes: tuple[Pass, ...]
    packed: tuple[Call, ...] | None = None

    @cached_property
    def gathers(self) -> tuple[tuple[Gather, ...], tuple[Place, ...]]:
        """Keys in several ranges, gathered once for all passes that share them; and where each pass has its own."""
        return share_keys(self.passes)


def build_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: object = None,
    allow_is_causal_skip: bool = True,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Plan | Tensor | None:
    """The plan of this forward; None if plain causal attention will do; for a decode step the (B, 1, 1, K) mask.

    Arguments are those of the dense backend. Raises ValueError for a policy that is no union of rectangles, and for a
    model whose own mask is more than causal (sliding window, chunks).
    """
    request = expect_request(attention_mask, NAME)
    asked = Forward(request.policy, has_window=mask_function is not causal_mask_function)
    if (problem := why_not(NAME, asked)) is not None:
        raise ValueError(
            f"attn_implementation {NAME!r} computes causal attention and rectangles, but {problem}: use {sdpa.NAME!r}."
        )
    if q_length == 1:  # one query sees its past and itself: a mask of one line, or none
        return sdpa.build_mask(
            batch_size,
            q_length,
            kv_length,
            q_offset,
            kv_offset,
            attention_mask=request,
            allow_is_causal_skip=allow_is_causal_skip,
            device=device,
            **kwargs,
        )
    return _plan(request, q_offset, kv_offset, kv_length, allow_is_causal_skip)


@torch.compiler.disable  # it looks at the data
def _plan(
    request: MaskRequest, q_offset: int | Tensor, kv_offset: int, keys: int, allow_is_causal_skip: bool
) -> Plan | None:
    past = int(q_offset) - kv_offset
    passes = find_passes(request.policy, request.roles, request.padding_BK, past)
    batch, tokens = request.shape
    plain = (Pass((0, batch), (0, tokens), ((0, tokens),), is_causal=True),)
    if allow_is_causal_skip and passes == plain:
        return None
    device = request.roles.document_BN.device
    if len(passes) > MOST_CALLS.get(device.type, math.inf):
        return Plan(passes, pack(passes, tokens, keys, device))
    return Plan(passes)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Plan | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over the passes of a plan; with a mask or None in its place, plain SDPA.

    Takes query (B, H, N, D), key and value (B, H / groups, K, D); returns (B, N, H, D), zero for padding. Raises
    ValueError for dropout, score changes (softcap, biases, sinks) and tensors that have no flash kernel.
    """
    if not isinstance(attention_mask, Plan):
        return sdpa.attend(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    refuse_unable(NAME, dropout=dropout, **kwargs)
    out_BHND = split_attention(query, key, value, attention_mask, scaling)
    return out_BHND.transpose(1, 2).contiguous(), None


@torch.compiler.disable
def split_attention(q_BHND: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, plan: Plan, scale: float | None = None) -> Tensor:
    """softmax(q k^T * scale) v over the cells that the plan covers, (B, H, N, D); zeros for queries in no pass."""
    q_BHND, k_BHKD, v_BHKD = (x.to(compute_dtype(x)) for x in (q_BHND, k_BHKD, v_BHKD))
    kernel = find_kernel(q_BHND, v_BHKD)
    if not kernel.takes_grouped_heads:
        groups = q_BHND.shape[1] // k_BHKD.shape[1]
        k_BHKD, v_BHKD = repeat_kv(k_BHKD, groups), repeat_kv(v_BHKD, groups)
    scale = q_BHND.shape[-1] ** -0.5 if scale is None else scale
    if plan.packed is not None:
        return PackedAttention.apply(q_BHND, k_BHKD, v_BHKD, plan.packed, kernel, scale)
    return _SplitAttention.apply(_dense(q_BHND), _dense(k_BHKD), _dense(v_BHKD), plan, kernel, scale)


def _dense(x_BHND: Tensor) -> Tensor:
    """The kernels stride over rows, heads and tokens as they come, but read a token's numbers as one run."""
    is_dense = x_BHND.stride(-1) == 1 and x_BHND.stride(-2) >= x_BHND.shape[-1]
    return x_BHND if is_dense else x_BHND.contiguous()


class _SplitAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BHND: Tensor,
        k_BHKD: Tensor,
        v_BHKD: Tensor,
        plan: Plan,
        kernel: Kernel,
        scale: float,
    ) -> Tensor:
        gathers, places = plan.gathers
        kept_BHSD, values_BHSD = ([gather.of(x_BHKD) for gather in gathers] for x_BHKD in (k_BHKD, v_BHKD))

        def run(part: Pass, place: Place) -> tuple[Tensor, Tensor]:
            keys, values = _keys(k_BHKD, part, kept_BHSD, place), _keys(v_BHKD, part, values_BHSD, place)
            return kernel.forward(_queries(q_BHND, part), keys, values, part.is_causal, scale)

        rest = list(zip(plan.passes, places, strict=True))
        if _is_first_whole(plan.passes, q_BHND):  # no copy: the other passes merge into what it returns
            out_BHND, lse_BHN = run(*rest.pop(0))
        else:
            out_BHND = _zeros(q_BHND)
            lse_BHN = q_BHND.new_zeros(q_BHND.shape[:3], dtype=torch.promote_types(q_BHND.dtype, torch.float32))
        for part, place in rest:
            out_BHQD, lse_BHQ = run(part, place)
            into_BHQD, into_BHQ = _queries(out_BHND, part), _queries(lse_BHN, part)
            if part.is_causal:  # squares come first and never overlap
                into_BHQD.copy_(out_BHQD)
                into_BHQ.copy_(lse_BHQ)
            else:
                _merge_into(into_BHQD, into_BHQ, out_BHQD, lse_BHQ)
        ctx.save_for_backward(q_BHND, k_BHKD, v_BHKD, out_BHND, lse_BHN)
        ctx.plan, ctx.kernel, ctx.scale = plan, kernel, scale
        return out_BHND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHND: Tensor) -> tuple[Tensor | None, ...]:
        q_BHND, k_BHKD, v_BHKD, out_BHND, lse_BHN = ctx.saved_tensors
        gathers, places = ctx.plan.gathers
        kept_BHSD, values_BHSD = ([gather.of(x_BHKD) for gather in gathers] for x_BHKD in (k_BHKD, v_BHKD))

        def run(part: Pass, place: Place) -> tuple[Tensor, Tensor, Tensor]:
            return ctx.kernel.backward(
                _queries(grad_BHND, part),
                _queries(q_BHND, part),
                _keys(k_BHKD, part, kept_BHSD, place),
                _keys(v_BHKD, part, values_BHSD, place),
                _queries(out_BHND, part),
                _queries(lse_BHN, part),
                part.is_causal,
                ctx.scale,
            )

        rest = list(zip(ctx.plan.passes, places, strict=True))
        if _is_first_whole(ctx.plan.passes, q_BHND) and k_BHKD.shape[2] == q_BHND.shape[2]:
            dq_BHND, dk_BHKD, dv_BHKD = run(*rest.pop(0))
        else:
            dq_BHND, dk_BHKD, dv_BHKD = _zeros(q_BHND), _zeros(k_BHKD), _zeros(v_BHKD)
        dkept_BHSD, dvalues_BHSD = ([torch.zeros_like(x) for x in some] for some in (kept_BHSD, values_BHSD))
        for part, place in rest:
            dq_BHQD, dk_part, dv_part = run(part, place)
            _queries(dq_BHND, part).add_(dq_BHQD)
            _keys(dk_BHKD, part, dkept_BHSD, place).add_(dk_part)
            _keys(dv_BHKD, part, dvalues_BHSD, place).add_(dv_part)
        for gather, dk_BHSD, dv_BHSD in zip(gathers, dkept_BHSD, dvalues_BHSD, strict=True):
            gather.add_to(dk_BHKD, dk_BHSD)
            gather.add_to(dv_BHKD, dv_BHSD)
        return dq_BHND, dk_BHKD, dv_BHKD, None, None, None


def _is_first_whole(passes: tuple[Pass, ...], q_BHND: Tensor) -> bool:
    """Whether the first pass covers every query of the batch."""
    batch, _, tokens, _ = q_BHND.shape
    return bool(passes) and passes[0].rows == (0, batch) and passes[0].queries == (0, tokens)


def _slice(x_BHN: Tensor, rows: Range, tokens: Range) -> Tensor:
    """A view of the tokens of some rows; trailing dimensions, if any, stay."""
    if rows == (0, x_BHN.shape[0]) and tokens == (0, x_BHN.shape[2]):
        return x_BHN
    return x_BHN.narrow(0, rows[0], rows[1] - rows[0]).narrow(2, tokens[0], tokens[1] - tokens[0])


def _queries(x_BHN: Tensor, part: Pass) -> Tensor:
    return _slice(x_BHN, part.rows, part.queries)


def _keys(x_BHKD: Tensor, part: Pass, gathered_BHSD: list[Tensor], place: Place) -> Tensor:
    """A view of the keys of a pass: of its one range, or of what was gathered from several."""
    if place is None:
        return _slice(x_BHKD, part.rows, part.keys[0])
    which, first = place
    return gathered_BHSD[which].narrow(2, first, gathered_BHSD[which].shape[2] - first)


def _zeros(like_BHND: Tensor) -> Tensor:
    """Zeros of that shape, in memory (B, N, H, D): the order in which a model reads them."""
    batch, heads, tokens, dim = like_BHND.shape
    return like_BHND.new_zeros(batch, tokens, heads, dim).transpose(1, 2)


def _merge_into(out_BHQD: Tensor, lse_BHQ: Tensor, new_BHQD: Tensor, new_lse_BHQ: Tensor) -> None:
    """Merges a pass into what earlier passes gave for the same queries, in place."""
    # exp(l2 - logaddexp(l1, l2)) = sigmoid(l2 - l1) is the new pass's share; the rest is the old one's.
    share_BHQ1 = torch.sigmoid(new_lse_BHQ - lse_BHQ)[..., None]
    torch.logaddexp(lse_BHQ, new_lse_BHQ, out=lse_BHQ)
    if out_BHQD.dtype == share_BHQ1.dtype:
        out_BHQD.lerp_(new_BHQD, share_BHQ1)
    else:  # half precision merges in float32
        out_BHQD.copy_(torch.lerp(out_BHQD.to(share_BHQ1.dtype), new_BHQD.to(share_BHQ1.dtype), share_BHQ1))
