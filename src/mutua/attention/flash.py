"""Flash attention with its log-sum-exp, and its backward for any output and log-sum-exp: two functions a device.

Passing the backward the output and log-sum-exp of a larger softmax gives this part's share of the larger gradient:
P = exp(S - L) and D = rowsum(dO * O) are all that it takes from them.

Shape suffixes: B batch, H heads, Q queries, K keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_aten = torch.ops.aten


@dataclass(frozen=True)
class Lengths:
    """Of sequences that lie one after the other: where each ends (int32, from 0 on), and as plain numbers."""

    q_ends: Tensor
    k_ends: Tensor
    q: tuple[int, ...]
    k: tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """`forward(q, k, v, is_causal, scale)` gives the output (B, H, Q, D) and the natural log-sum-exp (B, H, Q).

    `backward(grad_out, q, k, v, out, lse, is_causal, scale)` gives the gradients of q, k and v. With `is_causal`, Q
    equals K. Tensors may be slices of larger ones; the last dimension must be dense.

    `packed_forward(q, k, v, lengths, is_causal, scale)` and `packed_backward(...)` do the same for sequences that lie
    one after the other: (T, H, D), log-sum-exp (T, H).
    """

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    packed_forward: Callable[..., tuple[Tensor, Tensor]]
    packed_backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
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


def _as_rows(x_THD: Tensor, lengths: tuple[int, ...]) -> Iterator[Tensor]:
    """The sequences of (T, H, D), each as a batch of one row (1, H, length, D)."""
    return (part.transpose(0, 1)[None] for part in x_THD.split(lengths))


def _cpu_packed_forward(
    q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, lengths: Lengths, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    # The CPU's kernel takes no sequence lengths, and a call there costs little: one a sequence.
    parts = [
        _cpu_forward(q_1HQD, k_1HKD, v_1HKD, is_causal, scale)
        for q_1HQD, k_1HKD, v_1HKD in zip(
            _as_rows(q_THD, lengths.q), _as_rows(k_THD, lengths.k), _as_rows(v_THD, lengths.k), strict=True
        )
    ]
    out_HTD, lse_HT = (torch.cat([part[which][0] for part in parts], 1) for which in (0, 1))
    return out_HTD.transpose(0, 1), lse_HT.transpose(0, 1)


def _cpu_packed_backward(
    grad_THD: Tensor,
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    out_THD: Tensor,
    lse_TH: Tensor,
    lengths: Lengths,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = zip(
        _as_rows(grad_THD, lengths.q),
        _as_rows(q_THD, lengths.q),
        _as_rows(k_THD, lengths.k),
        _as_rows(v_THD, lengths.k),
        _as_rows(out_THD, lengths.q),
        _as_rows(lse_TH, lengths.q),
        strict=True,
    )
    parts = [_cpu_backward(grad, q, k, v, out, lse, is_causal, scale) for grad, q, k, v, out, lse in rows]
    dq_THD, dk_THD, dv_THD = (torch.cat([part[which][0].transpose(0, 1) for part in parts]) for which in range(3))
    return dq_THD, dk_THD, dv_THD


def _cuda_packed_forward(
    q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, lengths: Lengths, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    out_THD, lse_HT, *_ = _aten._flash_attention_forward(
        q_THD,
        k_THD,
        v_THD,
        lengths.q_ends,
        lengths.k_ends,
        max(lengths.q),
        max(lengths.k),
        0.0,
        is_causal,
        False,
        scale=scale,
    )
    return out_THD, lse_HT.transpose(0, 1)


def _cuda_packed_backward(
    grad_THD: Tensor,
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    out_THD: Tensor,
    lse_TH: Tensor,
    lengths: Lengths,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    no_random_state = torch.empty(2, dtype=torch.uint64, device=q_THD.device)
    return _aten._flash_attention_backward(
        grad_THD,
        q_THD,
        k_THD,
        v_THD,
        out_THD,
        lse_TH.transpose(0, 1).contiguous(),
        lengths.q_ends,
        lengths.k_ends,
        max(lengths.q),
        max(lengths.k),
        0.0,
        is_causal,
        no_random_state,
        torch.empty((), dtype=torch.uint64, device=q_THD.device),
        scale=scale,
    )


KERNELS: dict[str, Kernel] = {
    "cpu": Kernel(
        forward=_cpu_forward,
        backward=_cpu_backward,
        packed_forward=_cpu_packed_forward,
        packed_backward=_cpu_packed_backward,
        dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16),
        takes_grouped_heads=False,
    ),
    "cuda": Kernel(
        forward=_cuda_forward,
        backward=_cuda_backward,
        packed_forward=_cuda_packed_forward,
        packed_backward=_cuda_packed_backward,
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
