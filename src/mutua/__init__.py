"""Mutua: modality-mutual attention for multimodal language models.

Importing it is quick: what it offers is imported when it is first used, torch and Transformers with it.
"""

from __future__ import annotations

from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any

from mutua.registration import register_models

if TYPE_CHECKING:
    from mutua.api import ask as ask
    from mutua.api import load as load
    from mutua.composition import compose as compose
    from mutua.models import MutuaConfig as MutuaConfig
    from mutua.models import MutuaForConditionalGeneration as MutuaForConditionalGeneration
    from mutua.models import MutuaProcessor as MutuaProcessor
    from mutua.roles import Modality as Modality
    from mutua.roles import TokenRoles as TokenRoles
    from mutua.unlocking import lock as lock
    from mutua.unlocking import unlock as unlock

__version__ = "0.1.0"

_HOMES = {
    "Modality": "mutua.roles",
    "MutuaConfig": "mutua.models",
    "MutuaForConditionalGeneration": "mutua.models",
    "MutuaProcessor": "mutua.models",
    "TokenRoles": "mutua.roles",
    "ask": "mutua.api",
    "compose": "mutua.composition",
    "load": "mutua.api",
    "lock": "mutua.unlocking",
    "unlock": "mutua.unlocking",
}
__all__ = list(_HOMES)


_one_at_a_time = RLock()  # two threads that import Transformers at once, for the first time, trip over each other


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mutua' has no attribute {name!r}")
    with _one_at_a_time:
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_models()
