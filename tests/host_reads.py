"""Who reads what a tensor holds: on a GPU the host waits for it."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_READS = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select")
_BY_INDEX = ("index", "index_put", "index_put_", "_index_put_impl_")


class HostReads(TorchDispatchMode):
    """While it is entered: the innermost of our files for every operation whose result, or its shape, needs the values.

    `tolist` of a CPU tensor is none of PyTorch's operations, so it does not show.

    Attributes:
        files: names, in order; "" where none of ours asked for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in _BY_INDEX and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or name in _READS:
            ours = [frame.filename for frame in traceback.extract_stack() if "/mutua/" in frame.filename]
            self.files.append(Path(ours[-1]).name if ours else "")
        return func(*args, **(kwargs or {}))
