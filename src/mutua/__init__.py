"""Mutua: modality-mutual attention for multimodal language models."""

from mutua.models import MutuaConfig, MutuaForConditionalGeneration, MutuaModel, MutuaProcessor

__all__ = ["MutuaConfig", "MutuaForConditionalGeneration", "MutuaModel", "MutuaProcessor"]
__version__ = "0.1.0"
