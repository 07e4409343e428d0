"""Mutua's model family, known to Transformers' Auto classes once this package is imported."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
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
# By these names alone `transformers serve` knows what to load, and Trainer that smoothed labels are of the token after.
for names in (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
):
    names[MutuaConfig.model_type] = MutuaForConditionalGeneration.__name__
registered()

__all__ = [
    "MutuaConfig",
    "MutuaForConditionalGeneration",
    "MutuaModel",
    "MutuaProcessor",
]
