"""Saved weights with something wrong in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]


def change_weights(change: Callable[[Weights], Weights], name: str = "model.safetensors") -> Callable[[Path], None]:
    """Changes what the file of that name in a folder holds."""

    def do(folder: Path) -> None:
        save_file(change(load_file(folder / name)), folder / name, metadata={"format": "pt"})

    return do


def only_pickle(folder: Path, name: str = "model.safetensors", pickle: str = "pytorch_model.bin") -> None:
    """Leaves of a file of weights a pickle."""
    torch.save(load_file(folder / name), folder / pickle)
    (folder / name).unlink()
