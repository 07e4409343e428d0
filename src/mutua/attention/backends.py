"""The backends by name: each a mask builder and an attention function, registered with Transformers.

A backend's name is what `attn_implementation` takes. Names keep clear of "flash": Transformers looks for that word and
would drop the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.models.llama.modeling_llama import repeat_kv

from mutua.attention import auto, flex, oracle, sdpa, split
from mutua.attention.inputs import refuse_unknown

_REFERENCE = "mutua_reference"


@dataclass(frozen=True)
class Backend:
    """One way to compute the rule. `build_mask` runs once a forward, `attend` in every layer."""

    name: str
    summary: str
    build_mask: Callable[..., Any]
    attend: Callable[..., tuple[Tensor, Tensor | None]]


def _reference_mask(*args: Any, **kwargs: Any) -> Tensor:
    """The dense mask, never skipped: the oracle's attention function has no causal shortcut."""
    return sdpa.build_mask(*args, **{**kwargs, "allow_is_causal_skip": False})  # type: ignore[return-value]


def _reference_attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    refuse_unknown(_REFERENCE, **kwargs)
    groups = getattr(module, "num_key_value_groups", 1)
    out_BHQD, weights_BHQK = oracle.attend(
        query, repeat_kv(key, groups), repeat_kv(value, groups), attention_mask[:, 0], scaling, softcap
    )
    return out_BHQD.transpose(1, 2).contiguous(), weights_BHQK


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(auto.NAME, "for every forward, the fastest of the others", auto.build_mask, auto.attend),
        Backend(sdpa.NAME, "dense boolean mask, scaled_dot_product_attention", sdpa.build_mask, sdpa.attend),
        Backend(split.NAME, "causal flash and look-ahead rectangles, no N x N mask", split.build_mask, split.attend),
        Backend(flex.NAME, "FlexAttention, empty blocks of the mask skipped", flex.build_mask, flex.attend),
        Backend(_REFERENCE, "float64 oracle, returns attention weights", _reference_mask, _reference_attend),
    )
}

# What Transformers' own names mean for a model that carries token roles.
_STANDARD = {None: auto.NAME, "auto": auto.NAME, "sdpa": sdpa.NAME, "eager": _REFERENCE}


def resolve(name: str | None) -> str:
    """The backend that serves `name` (ours, or one of Transformers' names); ValueError if none can."""
    name = _STANDARD.get(name, name)
    if name not in BACKENDS:
        raise ValueError(
            f"attn_implementation {name!r} cannot apply a look-ahead mask: use one of "
            f"{', '.join([*BACKENDS, *filter(None, _STANDARD)])}."
        )
    return name


def register() -> None:
    """Makes the backends known to Transformers; safe to call twice."""
    for backend in BACKENDS.values():
        AttentionInterface.register(backend.name, backend.attend)
        AttentionMaskInterface.register(backend.name, backend.build_mask)
