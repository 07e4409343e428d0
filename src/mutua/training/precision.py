"""In which precision a step computes: fp32, or bf16 with fp32 weights (autocast)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mutua.training.recipe import TrainSettings


def uses_bf16(settings: TrainSettings, device: torch.device) -> bool:
    """What `precision` means on this device; "auto" takes bf16 where the device multiplies matrices in it."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def step_precision(device: torch.device, bf16: bool) -> Iterator[None]:
    """What a step computes in, for training and for the evaluations in between."""
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16), _attention_precision():
        yield


def _attention_precision() -> AbstractContextManager[Any]:
    """Nothing but under a CPU's autocast: a function mode costs every operation a call in Python."""
    return Fp32Attention() if torch.is_autocast_enabled("cpu") else nullcontext()


class Fp32Attention(TorchFunctionMode):
    """While active, attention stays out of a CPU's autocast.

    The CPU kernels of bf16 attention pay for themselves from about 500 tokens only. Forward and backward of 64 rows of
    90 tokens (4 heads of 32, a mask) take 34 ms in bf16 and 13 ms in fp32, more than bf16 saves elsewhere.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(*(tensor.float() for tensor in args[:3]), *args[3:], **(kwargs or {}))


def compile_layers(model: PreTrainedModel) -> None:
    """`torch.compile` for each layer by itself: one compilation serves all layers of a kind, whatever a batch's shape.

    Evaluations, whose shapes are many, run uncompiled: under `uncompiled`.
    """
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def uncompiled() -> AbstractContextManager[None]:
    """What `compile_layers` has compiled runs as it was written."""
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


def recompute_activations(model: PreTrainedModel, compiled: bool = False) -> None:
    """Gradient checkpointing, with every recomputation in the precision of the forward it repeats.

    Args:
        compiled: the layers will be: then that is part of what is compiled, and PyTorch takes no other context.
    """
    settings: dict[str, Any] = {"use_reentrant": False}
    if not compiled:
        settings["context_fn"] = lambda: (nullcontext(), _attention_precision())
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
