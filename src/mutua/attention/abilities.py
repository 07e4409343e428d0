"""What each backend can do: one table, which `mutua_auto`, every refusal and `mutua doctor` read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mutua.attention import flash
from mutua.attention.policy import Policy


@dataclass(frozen=True)
class Abilities:
    """Of one backend.

    Attributes:
        every_policy: or only policies whose additions are rectangles (`Policy.is_rectangular`).
        windows: a model's own mask that is more than causal, e.g. a sliding window.
        dropout, softcap, position_bias: what a model may ask for besides the mask.
        weights: gives attention weights (`output_attentions=True`).
        one_graph: traces with the model under `torch.compile`; else it runs between two graphs.
        backward_on_cpu: a gradient without a GPU.
        flash_kernel: needs PyTorch's flash kernel for the device, with its limits (`flash.why_not`).
    """

    every_policy: bool = True
    windows: bool = True
    dropout: bool = False
    softcap: bool = False
    position_bias: bool = False
    weights: bool = False
    one_graph: bool = False
    backward_on_cpu: bool = True
    flash_kernel: bool = False


ABILITIES: dict[str, Abilities] = {
    "mutua_sdpa": Abilities(dropout=True, position_bias=True, one_graph=True),
    "mutua_split": Abilities(every_policy=False, windows=False, flash_kernel=True),
    "mutua_flex": Abilities(softcap=True, backward_on_cpu=False),
    "mutua_reference": Abilities(softcap=True, weights=True),
}

# What a model may ask of its attention function besides the mask; nobody here applies the last two.
_OPTIONS = ("dropout", "softcap", "position_bias", "s_aux", "cache")
_MORE = {"dropout": ", or set attention_dropout to 0 in the text config"}


@dataclass(frozen=True)
class Forward:
    """What a layer asks of its backend.

    Attributes:
        has_window: the model's own mask is more than causal.
        head_dim, value_dim: of queries and keys, and of values.
        has_bias: the model adds a bias of its own to the scores.
        needs_backward: a gradient is wanted.
    """

    policy: Policy
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    head_dim: int = 64
    value_dim: int = 64
    has_window: bool = False
    dropout: float = 0.0
    softcap: float | None = None
    has_bias: bool = False
    needs_backward: bool = True


def why_not(backend: str, forward: Forward) -> str | None:
    """Why the backend cannot compute this exactly, in a few words; None if it can."""
    can = ABILITIES[backend]
    if not (can.every_policy or forward.policy.is_rectangular):
        return f"what the policy {forward.policy.name!r} adds to causal attention is no union of rectangles"
    if forward.has_window and not can.windows:
        return "the model's own mask is more than causal (a sliding window, say)"
    if forward.dropout and not can.dropout:
        return "attention dropout"
    if forward.softcap is not None and not can.softcap:
        return "a softcap of the scores"
    if forward.has_bias and not can.position_bias:
        return "a bias on the scores"
    if forward.needs_backward and forward.device == "cpu" and not can.backward_on_cpu:
        return "no backward on a CPU"
    if can.flash_kernel:
        return flash.why_not(forward.device, forward.dtype, forward.head_dim, forward.value_dim)
    return None


def backends_with(ability: str) -> str:
    """The names of those that have the ability, for an error's remedy."""
    return " or ".join(repr(name) for name, can in ABILITIES.items() if getattr(can, ability, False))


def refuse_unable(backend: str, **asked: Any) -> None:
    """Raises ValueError for the first option of `asked` that the backend does not apply: it would be dropped."""
    for option in _OPTIONS:
        value = asked.get(option)
        if value is None or (option == "dropout" and value == 0) or getattr(ABILITIES[backend], option, False):
            continue
        shown = f"{option}={value}" if isinstance(value, float) else option
        able = backends_with(option)
        use = f"use {able}" if able else "no backend of Mutua applies it"
        raise ValueError(f"attn_implementation {backend!r} cannot apply {shown}: {use}{_MORE.get(option, '')}.")


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """In which attention computes: autocast's where it is on, as scaled_dot_product_attention does by itself."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype
