"""A folder's safetensors files as one mapping of tensors that are read only when asked for.

For checkpoints larger than memory: names, shapes and layout are known without reading a tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor


class TensorFilesError(ValueError):
    """Files that are missing, damaged or contradict each other; the message names the file and the remedy."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies on disk, and its size."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class TensorFiles:
    """All tensors of a folder's safetensors files by name, read when asked for."""

    tensors: Mapping[str, StoredTensor]

    @classmethod
    def of(cls, folder: Path) -> TensorFiles:
        paths = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            try:
                named = set(json.loads(index.read_bytes())["weight_map"].values())
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise TensorFilesError(f"{index} is damaged ({error!r}): fetch it again") from error
            if missing := sorted(named - {path.name for path in paths}):
                raise TensorFilesError(
                    f"{index} names files that are not there: {', '.join(missing)}: fetch them again"
                )
        if not paths:
            pickles = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
            hint = f" (only {', '.join(pickles)}: a pickle can run code, so it is not opened)" if pickles else ""
            raise TensorFilesError(
                f"{folder} holds no *.safetensors file{hint}: fetch the checkpoint's safetensors files"
            )
        found: dict[str, StoredTensor] = {}
        for path in paths:
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 (no mapping)
                        part = file.get_slice(name)
                        shape, dtype = tuple(part.get_shape()), part.get_dtype()
                        size = prod(shape) * int(re.sub(r"\D", "", dtype.split("_")[0]) or 8) // 8
                        if name in found:
                            raise TensorFilesError(
                                f"{path} and {found[name].file} both hold {name!r}: remove one of them"
                            )
                        found[name] = StoredTensor(path, shape, dtype, size)
            except SafetensorError as error:
                raise TensorFilesError(f"{path} is damaged or cut short ({error}): fetch it again") from error
        return cls(found)

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Tensors that stay in the mapped files until something copies them."""
        with ExitStack() as stack:
            opened: dict[Path, Any] = {}
            for path in {self.tensors[name].file for name in names}:
                opened[path] = stack.enter_context(safe_open(path, framework="pt"))
            return {name: opened[self.tensors[name].file].get_tensor(name) for name in names}

    def metadata(self) -> dict[str, dict[str, Any]]:
        """By file name: its tensors and its metadata."""
        layout: dict[str, dict[str, Any]] = {}
        for name, stored in self.tensors.items():
            if stored.file.name not in layout:
                with safe_open(stored.file, framework="pt") as file:
                    layout[stored.file.name] = {"metadata": file.metadata(), "tensors": []}
            layout[stored.file.name]["tensors"].append(name)
        return layout
