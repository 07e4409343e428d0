"""Data: one sample schema, the readers that yield it, and what turns it into batches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mutua.data.collate import Collator as Collator
    from mutua.data.rows import sample_from_row as sample_from_row
    from mutua.data.sample import Sample as Sample

# Imported when they are first used: a batch needs torch and Transformers, a sample does not.
_HOMES = {"Collator": "mutua.data.collate", "Sample": "mutua.data.sample", "sample_from_row": "mutua.data.rows"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mutua.data' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
