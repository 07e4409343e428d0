"""What a run is: the sections of a recipe, each key with its type, its default and what it means.

`mutua.training.recipe_file` reads recipes from YAML; docs/training.md lists the keys (a test keeps it in step).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from transformers import CONFIG_MAPPING, LlamaConfig, SiglipVisionConfig

from mutua.attention import POLICIES
from mutua.composition.presets import PRESETS
from mutua.data.readers import Source
from mutua.models.connectors import connector_keys

# Strict: `true` is no number, and "many" and 2.5 are no counts.
Count = Annotated[int, Field(strict=True, ge=1)]
CountOrZero = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Beta = Annotated[float, Field(strict=True, ge=0, lt=1)]


class Section(BaseModel):
    """Every section is immutable and knows all of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelSettings(Section):
    preset: str | None = Field(
        default=None,
        description=f"tiny: fresh weights of its size, with a tokenizer learned from the data; or, from published "
        f"parts with a fresh connector, {', '.join(PRESETS)}",
    )
    path: Path | None = Field(default=None, description="or start from the model in this folder, tokenizer included")
    vision: str | dict[str, Any] | None = Field(
        default=None,
        description="or put one together: the vision encoder's folder or hub id, or for fresh weights its config "
        "(`model_type` and sizes); of preset tiny: sizes (keys of SiglipVisionConfig)",
    )
    language: str | dict[str, Any] | None = Field(
        default=None,
        description="with vision: the language model's folder, hub id or GGUF file, or for fresh weights its config",
    )
    connector: str | dict[str, Any] | None = Field(
        default=None,
        description="mlp or resampler, or with sizes {type: resampler, latents: 64}; left out: the preset's, for tiny "
        "mlp, else resampler",
    )
    tokenizer: str | None = Field(
        default=None, description="folder or hub id; left out: the language model's own. Needed where that is a config"
    )
    attention_policy: str | None = Field(
        default=None, description=f"{' or '.join(POLICIES)}; left out: the preset's or the folder's own, else mma"
    )
    text: dict[str, Any] = Field(default={}, description="sizes of preset tiny's language model (keys of LlamaConfig)")

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str | None) -> str | None:
        if name is not None:
            _known("preset", [name], ["tiny", *PRESETS])
        return name

    @field_validator("attention_policy")
    @classmethod
    def _known_policy(cls, name: str | None) -> str | None:
        if name is not None:
            _known("attention policy", [name], POLICIES)
        return name

    @field_validator("vision", "language", "connector", mode="plain")
    @classmethod
    def _name_or_keys(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, (str, dict)):
            raise ValueError(f"got {value!r}, expected a text or keys and values")
        return value or None

    @field_validator("vision")
    @classmethod
    def _known_vision(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("preset") == "tiny" and isinstance(value, dict):
            _known("key of SiglipVisionConfig", value, SiglipVisionConfig().to_dict())
        return value

    @field_validator("connector")
    @classmethod
    def _known_connector(cls, value: Any) -> Any:
        if value is not None:
            connector_keys(value)
        return value

    @field_validator("text")
    @classmethod
    def _known_text(cls, sizes: dict[str, Any]) -> dict[str, Any]:
        return _known("key of LlamaConfig", sizes, LlamaConfig().to_dict())

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSettings:
        has_parts = self.vision is not None and self.language is not None
        if (self.preset and self.path) or not (self.preset or self.path or has_parts):
            raise ValueError("give exactly one of preset and path, or vision and language")
        if self.path is not None:
            if self.connector or self.vision or self.text or self.language or self.tokenizer:
                raise ValueError(
                    "connector, vision, language, tokenizer and text make a new model; a model from a path has its own"
                )
        elif self.preset == "tiny":
            if self.language is not None or self.tokenizer is not None or isinstance(self.vision, str):
                raise ValueError("preset tiny has its own language model and tokenizer, and sizes for vision")
        elif self.text:
            raise ValueError("text is for the sizes of preset tiny; give language a config instead")
        else:
            for key, value in (("vision", self.vision), ("language", self.language)):
                if isinstance(value, dict) and value.get("model_type") not in CONFIG_MAPPING:
                    raise ValueError(f"{key} is a config without a model_type that Transformers knows, e.g. llama")
        return self


class WeightedSource(Section):
    weight: Positive = Field(
        default=1.0, description="this source's share of the samples, relative to the other weights"
    )
    source: Source = Field(description="a source by its `type`: scenes, easy-vqa or jsonl, and that reader's settings")


class DataSettings(Section):
    train: tuple[WeightedSource, ...] = Field(min_length=1, description="the sources of the training mixture")
    tokenizer_texts: Count = Field(
        default=2000, description="how many texts of the mixture a preset's tokenizer learns from"
    )
    max_tokens: Count | None = Field(
        default=None,
        description="longest sample, in tokens, visual ones included; left out: as many as the language model has "
        "positions for",
    )
    too_long: Literal["drop", "cut"] = Field(
        default="drop",
        description="what happens to longer samples: drop leaves them out, cut keeps the turns that fit whole",
    )
    max_bad_share: Fraction = Field(
        default=0.01,
        description="share of a source's samples that may be bad (unreadable, say); above it, and above 10 samples, "
        "the run stops; 0 allows none",
    )


class LoraSettings(Section):
    rank: Count = Field(default=16, description="inner width of every adapter")
    alpha: Count = Field(default=32, description="the adapters' product is scaled by alpha / rank")
    dropout: Annotated[float, Field(strict=True, ge=0, lt=1)] = Field(
        default=0.0, description="of what goes into the adapters"
    )
    targets: tuple[str, ...] = Field(
        default=("model.language_model.*",),
        min_length=1,
        description="patterns (fnmatch) on the names of the language model's linear layers, e.g. *.q_proj",
    )


class TrainSettings(Section):
    steps: Count = Field(description="optimizer steps")
    batch_size: Count = Field(description="samples per optimizer step")
    micro_batch_size: Count | None = Field(
        default=None, description="samples per forward pass, less than batch_size to save memory; left out: all at once"
    )
    learning_rate: Positive = Field(description="the peak rate, after the warm-up")
    weight_decay: Annotated[float, Field(strict=True, ge=0)] = Field(
        default=0.05, description="AdamW's decay; only of the weights of linear and convolution layers"
    )
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.98), description="AdamW's betas")
    warmup_steps: CountOrZero = Field(default=0, description="steps of linear warm-up")
    floor: Fraction = Field(default=0.05, description="what the cosine ends at, as a fraction of the peak rate")
    clip: Positive | None = Field(default=1.0, description="largest norm of the gradient; null does not clip")
    freeze: tuple[str, ...] = Field(
        default=(), description="patterns on parameter names (fnmatch) that stay as they are, e.g. model.vision_tower.*"
    )
    lora: LoraSettings | None = Field(
        default=None,
        description="train adapters in the language model, whose own weights then stay as they are; left out: none",
    )
    cache_vision_mb: CountOrZero = Field(
        default=0,
        description="MiB of host memory for features of a frozen vision encoder, so each image is encoded once",
    )
    gradient_checkpointing: bool = Field(default=False, strict=True, description="recompute activations to save memory")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of the arithmetic; weights stay fp32. auto: bf16 where the device computes in it"
    )
    workers: CountOrZero = Field(default=1, description="background processes that prepare batches; 0: none")
    log_every: Count = Field(default=10, description="steps between lines of the log")
    checkpoint_every: Count = Field(default=500, description="steps between checkpoints: what a power cut can cost")
    keep_checkpoints: Count = Field(default=2, description="how many of the newest checkpoints stay")

    @model_validator(mode="after")
    def _fits(self) -> TrainSettings:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} is above batch_size {self.batch_size}")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        return self


class EvaluateSettings(Section):
    sources: dict[str, Source] = Field(default={}, description="what to evaluate on, by the name that reports use")
    every: CountOrZero = Field(default=0, description="steps between evaluations; 0: only at the end")
    limit: Count | None = Field(default=None, description="samples per source, spread evenly over it; left out: all")
    batch_size: Count = Field(default=64, description="samples per batch")


class Recipe(Section):
    """A run, whole. Two runs of equal recipes on one machine give equal weights."""

    name: str = Field(min_length=1, description="what the run is called")
    seed: CountOrZero = Field(default=0, description="of the fresh weights, the order of the data and dropout")
    output: Path = Field(description="folder of the run; everything the run writes is inside")
    model: ModelSettings = Field(description="what is trained")
    data: DataSettings = Field(description="what it is trained on")
    train: TrainSettings = Field(description="how it is trained")
    evaluate: EvaluateSettings = Field(default=EvaluateSettings(), description="how it is measured")


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a key holds (`X` or `X | None`), None where it holds anything else."""
    choices = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((choice for choice in choices if isinstance(choice, type) and issubclass(choice, Section)), None)


def _known(what: str, given: Any, allowed: Iterable[str]) -> Any:
    for name in given:
        if name not in allowed:
            raise ValueError(f"no {what} {name!r}; allowed: {', '.join(sorted(allowed))}")
    return given
