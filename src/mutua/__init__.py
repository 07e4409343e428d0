"""Mutua: modality-mutual attention for multimodal language models."""

from mutua.api import ask, load
from mutua.composition import compose
from mutua.models import MutuaConfig, MutuaForConditionalGeneration, MutuaProcessor
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
