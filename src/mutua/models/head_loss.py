"""The language-model head and its cross-entropy in one, without the logits of all tokens at a time.

A vocabulary is much wider than a model, so logits, their log-softmax and their gradient are often the largest tensors
of a training step. Here a piece of the tokens at a time is taken from hidden state to loss to gradient, and one buffer
holds, one after the other, its logits, its probabilities and the gradient (as Liger Kernel does, arXiv 2410.10989).

Shape suffixes: T supervised tokens, C those of a piece, W width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

_PIECE = 2**24
"""Logits that are held at a time: 64 MiB in fp32."""


@dataclass
class LossOutput(ModelOutput):
    """What a forward pass of training returns: its loss, and at how many supervised tokens the best guess is right."""

    loss: Tensor | None = None
    correct: Tensor | None = None


def head_loss(hidden_TW: Tensor, head: nn.Linear, targets_T: Tensor, divisor: float | Tensor) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of `head(hidden_TW)` over `divisor`, and how many targets have the largest logit.

    Under autocast the head multiplies in its type, as `head(hidden_TW)` would; all else is fp32. `backward` works once.
    A head that is more than a linear layer (adapters, hooks, shards) is called as it is, all logits at a time.
    """
    if type(head) is not nn.Linear or head._forward_hooks or head._forward_pre_hooks:
        logits_TV = head(hidden_TW).float()
        loss = nn.functional.cross_entropy(logits_TV, targets_T, reduction="sum")
        return loss / divisor, (logits_TV.argmax(-1) == targets_T).sum()
    device = hidden_TW.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_TW.dtype
    with torch.autocast(device, enabled=False):
        loss, correct = _HeadLoss.apply(hidden_TW, head.weight, head.bias, targets_T, dtype)
    return loss / divisor, correct


class _HeadLoss(torch.autograd.Function):
    """Summed cross-entropy. Gradients are made in the forward pass, while the logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TW: Tensor, weight_VW: Tensor, bias_V: Tensor | None, targets_T: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        typed_VW = weight_VW.to(dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_TW.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden_TW.device)
        d_hidden_TW = torch.empty_like(hidden_TW) if needs_hidden else None
        d_weight_VW = torch.zeros_like(weight_VW) if needs_weight else None
        d_bias_V = torch.zeros_like(bias_V) if needs_bias and bias_V is not None else None
        size = max(1, _PIECE // weight_VW.shape[0])
        for start in range(0, len(targets_T), size):
            piece = slice(start, start + size)
            hidden_CW, targets_C1 = hidden_TW[piece].to(dtype), targets_T[piece, None]
            bias_of_type_V = None if bias_V is None else bias_V.to(dtype)
            logits_CV = nn.functional.linear(hidden_CW, typed_VW, bias_of_type_V).float()
            largest_C1, guess_C1 = logits_CV.max(-1, keepdim=True)
            correct += (guess_C1 == targets_C1).sum()
            loss += (largest_C1 - logits_CV.gather(1, targets_C1)).sum()
            exp_CV = logits_CV.sub_(largest_C1).exp_()
            sum_C1 = exp_CV.sum(-1, keepdim=True)
            loss += sum_C1.log().sum()
            if not any(ctx.needs_input_grad[:3]):
                continue
            gradient_CV = exp_CV.div_(sum_C1)  # softmax - one-hot
            gradient_CV.scatter_add_(1, targets_C1, gradient_CV.new_full((), -1.0).expand_as(targets_C1))
            typed_CV = gradient_CV.to(dtype)
            if d_hidden_TW is not None:
                d_hidden_TW[piece] = typed_CV @ typed_VW
            if d_weight_VW is not None:
                if dtype == d_weight_VW.dtype:
                    d_weight_VW.addmm_(typed_CV.T, hidden_CW)
                else:
                    d_weight_VW += typed_CV.T @ hidden_CW
            if d_bias_V is not None:
                d_bias_V += gradient_CV.sum(0)
        ctx.gradients = (d_hidden_TW, d_weight_VW, d_bias_V)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: what the gradient depends on is gone by now
            raise RuntimeError(
                "head_loss has no second derivative: leave supervised_positions out, and the loss is computed of all "
                "logits."
            )
        if ctx.gradients is None:
            raise RuntimeError("the gradient of head_loss was taken already: run the forward pass again.")
        gradients, ctx.gradients = ctx.gradients, None
        return *(None if g is None else g.mul_(d_loss) for g in gradients), None, None
