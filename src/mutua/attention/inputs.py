"""What every attention function does before it computes: refuse what it cannot apply, and follow autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# What a model may ask of its attention besides the mask, and who applies it. Unknown to a backend, it would be dropped
# without a word.
_APPLIED_BY: dict[str, tuple[str, ...]] = {
    "dropout": ("mutua_sdpa",),
    "softcap": ("mutua_flex", "mutua_reference"),
    "position_bias": ("mutua_sdpa",),
    "s_aux": (),
    "cache": (),
}
_REMEDY = {"dropout": ", or set attention_dropout to 0 in the text config"}


def refuse_unknown(backend: str, **asked: Any) -> None:
    """Raises ValueError for the first thing in `asked` that the backend does not apply, naming those that do."""
    for what, value in asked.items():
        able = _APPLIED_BY.get(what)
        if able is None or value is None or (what == "dropout" and value == 0) or backend in able:
            continue
        shown = f"{what}={value}" if isinstance(value, float) else what
        use = f"use {' or '.join(repr(name) for name in able)}" if able else "no backend of Mutua applies it"
        raise ValueError(f"attn_implementation {backend!r} cannot apply {shown}: {use}{_REMEDY.get(what, '')}.")


def follow_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype where it is on, as scaled_dot_product_attention does by itself."""
    device = tensors[0].device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)
    return tensors
