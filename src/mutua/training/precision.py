"""In which precision a step computes: fp32, or bf16 with fp32 weights (autocast)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from mutua.training.recipe import TrainSettings


def uses_bf16(settings: TrainSettings, device: torch.device) -> bool:
    """What `precision` means on this device; "auto" takes bf16 where the device multiplies matrices in it."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class Fp32Attention(TorchFunctionMode):
    """While active, attention stays out of a CPU's autocast.

    The CPU kernels of bf16 attention pay for themselves from about 1,000 tokens only; their backward takes three
    times as long as fp32's at 64 tokens (64 rows, 4 heads of 32), more than bf16 saves elsewhere.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not scaled_dot_product_attention or not torch.is_autocast_enabled("cpu"):
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(*(tensor.float() for tensor in args[:3]), *args[3:], **(kwargs or {}))


def recompute_activations(model: PreTrainedModel) -> None:
    """Gradient checkpointing, with every recomputation in the precision of the forward it repeats."""
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={
            "use_reentrant": False,
            "context_fn": lambda: (nullcontext(), Fp32Attention()),
        }
    )
