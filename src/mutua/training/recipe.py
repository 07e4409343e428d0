"""What a run is: the sections of a recipe, each key with its type, its default and what it means.

`mutua.training.recipe_file` reads recipes from YAML; docs/training.md lists the keys (a test keeps it in step).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from mutua.data.order import Order
from mutua.data.readers import BLIP3OCRSource, GridSource, KALESource, ScenesSource, Source
from mutua.training.model_settings import ForeignModel, ModelSettings
from mutua.training.section import Section

# Strict: `true` is no number, and "many" and 2.5 are no counts.
Count = Annotated[int, Field(strict=True, ge=1)]
CountOrZero = Annotated[int, Field(strict=True, ge=0)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Beta = Annotated[float, Field(strict=True, ge=0, lt=1)]


def _as_it_stands(folder: Any) -> Any:
    """Refuses names that would put a run where nobody means it to go."""
    if folder == "":
        raise ValueError("is empty; name a folder")
    if isinstance(folder, str) and folder.startswith("~"):
        raise ValueError(f"got {folder!r}, but only a shell expands ~; write the folder out")
    if isinstance(folder, str) and "\0" in folder:
        raise ValueError(f"got {folder!r}, and no name has a null character")
    return folder


class WeightedSource(Section):
    weight: Positive = Field(
        default=1.0, description="this source's share of the samples, relative to the other weights"
    )
    source: Source = Field(
        description="a source by its `type`: scenes, grid, easy-vqa, jsonl, llava, datasets, or one of the paper's "
        "(docs/data.md), and its settings"
    )
    flip: Fraction = Field(
        default=0.0,
        description="share of this source's samples that are mirrored left to right, drawn anew every epoch; those "
        "whose text says left or right, east or west (in English), or holds a box or a point, are left alone",
    )

    @model_validator(mode="after")
    def _may_be_mirrored(self) -> WeightedSource:
        if self.flip and isinstance(self.source, ScenesSource | GridSource):
            raise ValueError(
                f"flip {self.flip}: {self.source.type} lists objects from left to right in some answers, and keeps "
                "layouts apart by split, and a mirror changes both; leave it out"
            )
        return self


class PackingSettings(Section):
    tokens: Annotated[int, Field(strict=True, ge=2)] = Field(description="that a row holds at most")
    max_images: Count | None = Field(default=None, description="that a row holds at most; left out: any number")


class DataSettings(Section):
    train: tuple[WeightedSource, ...] = Field(min_length=1, description="the sources of the training mixture")
    tokenizer_texts: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = Field(
        default=2000, description="how many texts of the mixture a preset's tokenizer learns from"
    )
    max_tokens: Count | None = Field(
        default=None,
        description="longest sample, in tokens, visual ones included; never more than the language model has "
        "positions for",
    )
    order: Literal["image-first", "text-first", "both"] | None = Field(
        default=None,
        description="where the images of a user message stand: image-first before its text, text-first behind it, both "
        "half of the samples each way, the other way in the next epoch; left out: where the sources have them",
    )
    packing: PackingSettings | None = Field(
        default=None,
        description="conversations share rows, each isolated from the others, so little of a batch is padding; left "
        "out: a row each",
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

    @model_validator(mode="after")
    def _has_an_order(self) -> DataSettings:
        if self.order is not None and all(isinstance(one.source, KALESource | BLIP3OCRSource) for one in self.train):
            raise ValueError(
                f"order {self.order!r} would change nothing: the pictures of blip3-kale and blip3-ocr have no text in "
                "their messages, their captions are the replies; leave it out"
            )
        return self


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
    batch_size: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = Field(description="samples per optimizer step")
    micro_batch_size: Count | None = Field(
        default=None,
        description="samples (rows, where they are packed) per forward pass, fewer than in a step to save memory; left "
        "out: all at once",
    )
    learning_rate: Positive = Field(description="the peak rate, after the warm-up")
    weight_decay: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = Field(
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
    compile: bool = Field(
        default=False,
        strict=True,
        description="torch.compile each layer: faster steps after a minute; on a CPU it needs a C++ compiler",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of the arithmetic; weights stay fp32. auto: bf16 where the device computes in it"
    )
    replicas: Count = Field(
        default=1,
        description="whole models that the processes of torchrun hold between them; those of one replica hold a shard "
        "each",
    )
    workers: Annotated[int, Field(strict=True, ge=0, le=256)] = Field(
        default=1, description="background processes that prepare batches, of each training process; 0: none"
    )
    log_every: Count = Field(default=10, description="steps between lines of the log")
    loggers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        default=("tensorboard",),
        description="where the log is drawn as curves: any of tensorboard, wandb, trackio; none: []",
    )
    checkpoint_every: Count = Field(default=500, description="steps between checkpoints: what a power cut can cost")
    async_checkpoints: bool | None = Field(
        default=None,
        strict=True,
        description="write checkpoints while training goes on, with host memory for a copy of weights and moments; "
        "left out: on a GPU",
    )
    keep_checkpoints: Count = Field(default=2, description="how many of the newest checkpoints stay")

    @model_validator(mode="after")
    def _fits(self) -> TrainSettings:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} is above batch_size {self.batch_size}")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers {list(self.loggers)} names one twice")
        return self


class EvaluateSettings(Section):
    sources: dict[str, Source] = Field(default={}, description="what to evaluate on, by the name that reports use")
    order: Order | None = Field(
        default=None, description="image-first or text-first, as in `data.order`; left out: as the sources have it"
    )
    every: CountOrZero = Field(default=0, description="steps between evaluations; 0: only at the end")
    limit: Count | None = Field(default=None, description="samples per source, spread evenly over it; left out: all")
    batch_size: Count = Field(default=64, description="samples per batch")
    max_new_tokens: Count = Field(default=16, description="tokens of an answer at most; the log counts what that cut")


class Seeds(Section):
    weights: Seed = Field(default=0, description="of the fresh weights")
    order: Seed = Field(default=0, description="of the order of the data")
    dropout: Seed = Field(default=0, description="of dropout")


def _one_if_equal(seed: int | Seeds) -> int | Seeds:
    """One recipe is written one way."""
    return seed.weights if isinstance(seed, Seeds) and seed.weights == seed.order == seed.dropout else seed


SEED_KINDS = {"one": int, "each": Seeds}


class Recipe(Section):
    """A run, whole. Two runs of equal recipes on one machine give equal weights."""

    name: str = Field(min_length=1, description="what the run is called")
    seed: Annotated[
        Annotated[Seed, Tag("one")] | Annotated[Seeds, Tag("each")],
        Discriminator(lambda given: "each" if isinstance(given, dict | Seeds) else "one"),
        AfterValidator(_one_if_equal),
    ] = Field(default=0, description="of the fresh weights, the order of the data and dropout; or one for each")
    output: Annotated[Path, BeforeValidator(_as_it_stands)] = Field(
        description="folder of the run; everything the run writes is inside"
    )
    model: ModelSettings = Field(description="what is trained, of one of the kinds below")
    data: DataSettings = Field(description="what it is trained on")
    train: TrainSettings = Field(description="how it is trained")
    evaluate: EvaluateSettings = Field(default=EvaluateSettings(), description="how it is measured")

    @model_validator(mode="after")
    def _fits_an_unlocked_model(self) -> Recipe:
        if not isinstance(self.model, ForeignModel):
            return self
        if self.data.packing is not None:
            raise ValueError("data.packing is for Mutua's own models: one of others numbers its positions itself")
        if self.train.cache_vision_mb:
            raise ValueError("train.cache_vision_mb is for Mutua's own models: one of others makes its features itself")
        return self

    @property
    def seeds(self) -> Seeds:
        """One for each."""
        if isinstance(self.seed, Seeds):
            return self.seed
        return Seeds(weights=self.seed, order=self.seed, dropout=self.seed)
