"""AdamW: which parameters decay, and its state by parameter name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mutua.training.recipe import TrainSettings

# Of these, what is called `weight` is a matrix. A bare parameter may be anything: positions, a class token, latents.
_DECAYED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over what is not frozen; weight decay pulls on the weights of linear and convolution layers only."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, _DECAYED)} - embeddings  # a head may be tied
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if id(parameter) in matrices else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's tensors, as `<parameter name>/<what it is>`: flat, so that safetensors can hold them."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def empty_optimizer_state(model: nn.Module, paths: Iterable[str]) -> dict[str, Tensor]:
    """Room for what `optimizer_state` gave under these paths, scalars aside; others are passed over."""
    parameters = dict(model.named_parameters())
    state = {}
    for path in paths:
        name = path.rpartition("/")[0]
        if name in parameters:
            state[path] = torch.empty_like(parameters[name])
    return state


def load_optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Undoes `optimizer_state`."""
    parameters = dict(model.named_parameters())
    for path, value in state.items():
        name, _, key = path.rpartition("/")
        # A copy, because a tensor that was read from a file may be aligned otherwise, and sums depend on that.
        optimizer.state[parameters[name]][key] = value.detach().to(parameters[name].device, copy=True)
