"""Mutua's model family, known to Transformers' Auto classes once this package is imported."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from mutua.attention import register
from mutua.models.configuration import MutuaConfig
from mutua.models.modeling import MutuaForConditionalGeneration, MutuaModel
from mutua.models.processing import MutuaProcessor
from mutua.registration import registered

register()
AutoConfig.register("mutua", MutuaConfig, exist_ok=True)
AutoModel.register(MutuaConfig, MutuaModel, exist_ok=True)
AutoModelForImageTextToText.register(MutuaConfig, MutuaForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(MutuaConfig, MutuaForConditionalGeneration, exist_ok=True)
AutoProcessor.register(MutuaConfig, MutuaProcessor, exist_ok=True)
registered()

__all__ = [
    "MutuaConfig",
    "MutuaForConditionalGeneration",
    "MutuaModel",
    "MutuaProcessor",
]
