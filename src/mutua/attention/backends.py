"""The backends by name: each a mask builder and an attention function, registered with Transformers.

A backend's name is what `attn_implementation` takes. Names keep clear of "flash": Transformers looks for that word and
would drop the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from mutua.attention import auto, flex, reference, sdpa, split


@dataclass(frozen=True)
class Backend:
    """One way to compute the rule. `build_mask` runs once a forward, `attend` in every layer."""

    name: str
    summary: str
    build_mask: Callable[..., Any]
    attend: Callable[..., tuple[Tensor, Tensor | None]]


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(auto.NAME, "for every forward, the fastest of the others", auto.build_mask, auto.attend),
        Backend(sdpa.NAME, "dense boolean mask, scaled_dot_product_attention", sdpa.build_mask, sdpa.attend),
        Backend(split.NAME, "causal flash and look-ahead rectangles, no N x N mask", split.build_mask, split.attend),
        Backend(flex.NAME, "FlexAttention, empty blocks of the mask skipped", flex.build_mask, flex.attend),
        Backend(reference.NAME, "float64 oracle, returns attention weights", reference.build_mask, reference.attend),
    )
}

# What Transformers' own names mean for a model that carries token roles.
_STANDARD = {None: auto.NAME, "auto": auto.NAME, "sdpa": sdpa.NAME, "eager": reference.NAME}


def resolve(name: str | None) -> str:
    """The backend that serves `name` (ours, or one of Transformers' names); ValueError if none can."""
    try:
        return BACKENDS[_STANDARD.get(name, name)].name  # type: ignore[index]
    except (KeyError, TypeError):
        raise ValueError(
            f"attn_implementation {name!r} cannot apply a look-ahead mask: use one of "
            f"{', '.join([*BACKENDS, *filter(None, _STANDARD)])}."
        ) from None


def register() -> None:
    """Makes the backends known to Transformers; safe to call twice."""
    for backend in BACKENDS.values():
        AttentionInterface.register(backend.name, backend.attend)
        AttentionMaskInterface.register(backend.name, backend.build_mask)
