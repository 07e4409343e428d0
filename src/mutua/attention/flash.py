"""Flash attention with its log-sum-exp, and its backward for any output and log-sum-exp: two functions a device.

Passing the backward the output and log-sum-exp of a larger softmax gives this part's share of the larger gradient:
P = exp(S - L) and D = rowsum(dO * O) are all that it takes from them.

Shape suffixes: B batch, H heads, Q queries, K keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_aten = torch.ops.aten


@dataclass(frozen=True)
class Kernel:
    """`forward(q, k, v, is_causal, scale)` gives the output (B, H, Q, D) and the natural log-sum-exp (B, H, Q).

    `backward(grad_out, q, k, v, out, lse, is_causal, scale)` gives the gradients of q, k and v. With `is_causal`, Q
    equals K. Tensors may be slices of larger ones; the last dimension must be dense.
    """

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    dtypes: tuple[torch.dtype, ...]
    takes_grouped_heads: bool
    head_dim_multiple: int = 1
    largest_head_dim: int = 1 << 16


def _cpu_forward(
    q_BHQD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    return _aten._scaled_dot_product_flash_attention_for_cpu(q_BHQD, k_BHKD, v_BHKD, 0.0, is_causal, scale=scale)


def _cpu_backward(
    grad_BHQD: Tensor,
    q_BHQD: Tensor,
    k_BHKD: Tensor,
    v_BHKD: Tensor,
    out_BHQD: Tensor,
    lse_BHQ: Tensor,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_BHQD, q_BHQD, k_BHKD, v_BHKD, out_BHQD, lse_BHQ, 0.0, is_causal, scale=scale
    )


def _cuda_forward(
    q_BHQD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    return _aten._scaled_dot_product_flash_attention(q_BHQD, k_BHKD, v_BHKD, 0.0, is_causal, scale=scale)[:2]


def _cuda_backward(
    grad_BHQD: Tensor,
    q_BHQD: Tensor,
    k_BHKD: Tensor,
    v_BHKD: Tensor,
    out_BHQD: Tensor,
    lse_BHQ: Tensor,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    # No sequence lengths: every row is full. The random state is read only for dropout.
    no_random_state = torch.empty(0, dtype=torch.uint64, device=q_BHQD.device)
    return _aten._scaled_dot_product_flash_attention_backward(
        grad_BHQD,
        q_BHQD,
        k_BHKD,
        v_BHKD,
        out_BHQD,
        lse_BHQ.contiguous(),  # the kernel takes a pointer and no strides for it
        None,
        None,
        q_BHQD.shape[2],
        k_BHKD.shape[2],
        0.0,
        is_causal,
        no_random_state,
        no_random_state,
        scale=scale,
    )


KERNELS: dict[str, Kernel] = {
    "cpu": Kernel(
        forward=_cpu_forward,
        backward=_cpu_backward,
        dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16),
        takes_grouped_heads=False,
    ),
    "cuda": Kernel(
        forward=_cuda_forward,
        backward=_cuda_backward,
        dtypes=(torch.bfloat16, torch.float16),
        takes_grouped_heads=True,
        head_dim_multiple=8,
        largest_head_dim=256,
    ),
}


def why_not(device: str, dtype: torch.dtype, head_dim: int, value_dim: int) -> str | None:
    """Why there is no flash kernel for such tensors; None if there is one."""
    kernel = KERNELS.get(device)
    if kernel is None:
        return f"no flash kernel for the device {device}"
    if dtype not in kernel.dtypes:
        return f"the flash kernel on {device} takes {', '.join(map(str, kernel.dtypes))}, not {dtype}"
    if head_dim != value_dim:
        return f"the flash kernel needs queries and values of one head dimension, not {head_dim} and {value_dim}"
    if head_dim % kernel.head_dim_multiple or head_dim > kernel.largest_head_dim:
        return (
            f"the flash kernel on {device} needs a head dimension that is a multiple of {kernel.head_dim_multiple} and "
            f"at most {kernel.largest_head_dim}, not {head_dim}"
        )
    return None


def find_kernel(q_BHQD: Tensor, v_BHKD: Tensor) -> Kernel:
    """The flash kernel for these tensors; ValueError if there is none."""
    device = q_BHQD.device.type
    if (problem := why_not(device, q_BHQD.dtype, q_BHQD.shape[-1], v_BHKD.shape[-1])) is not None:
        raise ValueError(f"attn_implementation 'mutua_split': {problem}: use 'mutua_sdpa'.")
    return KERNELS[device]
