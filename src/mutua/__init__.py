"""Mutua: modality-mutual attention for multimodal language models."""

from mutua.api import ask, load
from mutua.models import MutuaConfig, MutuaForConditionalGeneration, MutuaProcessor, compose
from mutua.roles import Modality, TokenRoles

__version__ = "0.1.0"
__all__ = [
    "Modality",
    "MutuaConfig",
    "MutuaForConditionalGeneration",
    "MutuaProcessor",
    "TokenRoles",
    "ask",
    "compose",
    "load",
]
