"""The configuration of a Mutua model: a vision encoder, a connector, a language model and an attention policy."""

# No `from __future__ import annotations` here: `strict` checks the types that it finds, and strings are none.

import os
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from mutua.attention import get_policy
from mutua.models.saved_folder import MODEL_MAP, write_module
from mutua.models.vision import grid_side


@strict
class MutuaConfig(PreTrainedConfig):
    """Composite configuration.

    Attributes:
        vision_config: a vision encoder's configuration, of a type in `mutua.models.vision.VISION_ENCODERS`.
        text_config: any `AutoModelForCausalLM` configuration.
        attention_policy: name of the policy (`mutua.attention.POLICIES`); saved, so a model reloads as it was trained.
        connector: "resampler" (the paper's Perceiver, a fixed number of tokens) or "mlp" (one token a patch).
        resampler_latents, resampler_depth, resampler_heads, resampler_head_dim, resampler_ff_mult: the resampler's
            size; the defaults are AKI-4B's.
        vision_feature_layer: which hidden state of the vision encoder the connector gets: -1 the last one after the
            final norm (as the paper), -2 the one before (as LLaVA), 0 the embedding.
        image_size: pixels a side that pictures are scaled to, for encoders that take any size; None: the encoder's own.
        lm_head_bias: whether the language-model head has a bias (AKI's has).
        image_token_id: the placeholder that stands for one visual token in `input_ids`.
    """

    model_type = "mutua"
    sub_configs_defaults = {  # noqa: RUF012 (Transformers reads it as a plain class attribute)
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: Any = None
    text_config: Any = None
    attention_policy: str = "mma"
    connector: Literal["resampler", "mlp"] = "resampler"
    resampler_latents: int = 144
    resampler_depth: int = 6
    resampler_heads: int = 8
    resampler_head_dim: int = 64
    resampler_ff_mult: int = 4
    vision_feature_layer: int = -1
    image_size: int | None = None
    image_token_id: int = 0
    tie_word_embeddings: bool = False
    lm_head_bias: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        get_policy(self.attention_policy)  # an unknown name is an error here, not in the first forward
        # Transformers ties weights by the flag of the top-level config; language models keep theirs in their own.
        if getattr(self.text_config, "tie_word_embeddings", False):
            self.tie_word_embeddings = True
        # Phi-3.5's config names a window of 262,144 tokens, of which no text of at most 131,072 can feel anything, but
        # a backend that computes no windows would have to refuse it.
        window = getattr(self.text_config, "sliding_window", None)
        is_asked_for = "sliding_attention" in (getattr(self.text_config, "layer_types", None) or ())
        if window is not None and window >= self.text_config.max_position_embeddings and not is_asked_for:
            self.text_config.sliding_window = None

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in Transformers, and beside it the module that opens the folder without `import mutua`."""
        self.auto_map = MODEL_MAP
        os.makedirs(save_directory, exist_ok=True)
        write_module(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing: Transformers would copy our source files into every saved folder; `auto_map` names the package."""

    @property
    def num_image_tokens(self) -> int:
        """Visual tokens per image, as the language model sees them."""
        if self.connector == "resampler":
            return self.resampler_latents
        return self.num_patches

    @property
    def num_patches(self) -> int:
        """Patches per image: the square grid that the connector gets, row by row."""
        return grid_side(self.vision_config, self.image_size) ** 2
