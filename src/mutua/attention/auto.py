"""The default backend: for every forward, the fastest of the others that is exact for it.

Which one that is depends on tensors that a mask builder does not see (precision, head dimensions), so the choice is
made where the first layer attends, and its mask is built then, once a forward. `benchmarks/attention.py` measured the
order; `mutua doctor` prints it for the machine it runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from mutua.attention import flex, sdpa, split
from mutua.attention.abilities import Forward, compute_dtype, why_not
from mutua.attention.request import MaskRequest, expect_request

NAME = "mutua_auto"

SPLIT_FROM: dict[str, int] = {"cpu": 512, "cuda": 2048}
"""Tokens from which `split` beats a dense mask, by device, as `benchmarks/attention.py` prints it under its table
(docs/performance.md has the command). On CUDA one row of 2,048 is a tie; more rows cost a mask more, `split` little."""

SPLIT_PADDED_FROM: dict[str, int] = {"cpu": 384, "cuda": 1024}
"""The same for padded batches: `split` computes no padding, a dense mask computes all of it. That of CUDA is a guess,
between two lengths of rows that were timed in whole training steps."""


class Choice(NamedTuple):
    """A backend, and the reason in a few words."""

    backend: ModuleType
    why: str


def choose(forward: Forward, tokens: int, is_padded: bool = False) -> Choice:
    """The backend for a forward of rows of that many tokens, some of them padding or none."""
    if torch.compiler.is_compiling():
        return Choice(sdpa, "compiling: traces as one graph")
    is_long = tokens >= (SPLIT_PADDED_FROM if is_padded else SPLIT_FROM).get(forward.device, 0)
    others = [sdpa]
    if forward.device == "cuda":  # FlexAttention is a kernel there; on a CPU it has no backward
        others = [flex, sdpa] if is_long else [sdpa, flex]
    if not is_long:
        reason = "short rows: a mask is cheaper than further calls"
    elif (problem := why_not(split.NAME, forward)) is None:
        return Choice(split, "no N x N mask, nothing computed in vain")
    else:
        reason = problem
    for backend in others:
        if (problem := why_not(backend.NAME, forward)) is None:
            return Choice(backend, reason)
        reason = problem
    return Choice(sdpa, f"{reason}: refuses, with a remedy")


class DeferredMask:
    """The mask of a forward, not built before it is known which backend computes it."""

    def __init__(self, request: MaskRequest, has_window: bool, build: Callable[[ModuleType], Any]) -> None:
        self._request, self._has_window, self._build = request, has_window, build
        self._built: dict[tuple[str, torch.device], Any] = {}

    def resolve(
        self, query: Tensor, value: Tensor, dropout: float, softcap: float | None, has_bias: bool = False
    ) -> tuple[ModuleType, Any]:
        """The backend for these tensors, and its mask.

        Layers on another device than the tokens' (`device_map`) take the dense mask, which can be moved there.
        """
        forward = Forward(
            policy=self._request.policy,
            device=query.device.type,
            dtype=compute_dtype(query),
            head_dim=query.shape[-1],
            value_dim=value.shape[-1],
            has_window=self._has_window,
            dropout=dropout,
            softcap=softcap,
            has_bias=has_bias,
            needs_backward=torch.is_grad_enabled() and (query.requires_grad or value.requires_grad),
        )
        is_here = query.device == self._request.roles.document_BN.device
        backend = choose(forward, query.shape[2], self._request.is_padded).backend if is_here else sdpa
        key = backend.NAME, query.device
        if key not in self._built:
            mask = self._build(backend)
            self._built[key] = mask if is_here or mask is None else mask.to(query.device)
        return backend, self._built[key]


def build_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: object = None,
    **kwargs: Any,
) -> DeferredMask | Tensor | None:
    """A mask to be built in the first layer; for a decode step, or while compiling, that of the dense backend."""
    request = expect_request(attention_mask, NAME)

    if isinstance(q_offset, Tensor):  # a static cache counts in place, and does so before the first layer attends
        q_offset = q_offset.clone()

    def build(backend: ModuleType) -> Any:
        return backend.build_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, request, **kwargs
        )

    if q_length == 1 or torch.compiler.is_compiling():
        return build(sdpa)
    return DeferredMask(request, mask_function is not causal_mask_function, build)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: DeferredMask | Tensor | None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention by the backend that suits these tensors."""
    options = {"dropout": dropout, "softcap": softcap, **kwargs}
    if not isinstance(attention_mask, DeferredMask):
        return sdpa.attend(module, query, key, value, attention_mask, **options)
    if torch.compiler.is_compiling():
        return _attend_uncompiled(module, query, key, value, attention_mask, **options)
    backend, mask = attention_mask.resolve(
        query, value, dropout, softcap, has_bias=kwargs.get("position_bias") is not None
    )
    return backend.attend(module, query, key, value, mask, **options)  # type: ignore[no-any-return]


# Where layers are compiled one by one, the choice is still made by what is in the batch.
_attend_uncompiled = torch.compiler.disable(attend)
