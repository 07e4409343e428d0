"""Sources of samples, and the settings by which a recipe names one.

A reader is a map-style `Sequence[Sample]`: cheap to make, lazy about images, picklable. A new source is one file, with
the class of its settings in it or below, and its place in the union.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveInt

from mutua.data.grid import GridScenes
from mutua.data.grid.questions import MAIN_FAMILIES
from mutua.data.grid.questions import Family as GridFamily
from mutua.data.grid.world import Split as GridSplit
from mutua.data.readers.captions import BLIP3OCRSource, KALESource
from mutua.data.readers.dataset_rows import DatasetRows
from mutua.data.readers.easy_vqa import EasyVQA
from mutua.data.readers.instruction import (
    AOKVQASource,
    GQASource,
    OCRVQASource,
    RefCOCOSource,
    ScienceQASource,
    VisualGenomeSource,
    VQAv2Source,
    VSRSource,
)
from mutua.data.readers.jsonl import JsonLines
from mutua.data.readers.llava import Llava
from mutua.data.readers.settings import Settings
from mutua.data.scenes import Scenes
from mutua.data.scenes.questions import EVAL_FAMILIES, Family
from mutua.data.scenes.scene import Split


class ScenesSource(Settings):
    type: Literal["scenes"] = "scenes"
    reader = Scenes
    split: Split
    size: NonNegativeInt
    seed: int = 0
    families: tuple[Family, ...] = Field(default=EVAL_FAMILIES, min_length=1)
    turns: PositiveInt = 1


class GridSource(Settings):
    type: Literal["grid"] = "grid"
    reader = GridScenes
    split: GridSplit
    size: NonNegativeInt
    seed: int = 0
    families: tuple[GridFamily, ...] = Field(default=MAIN_FAMILIES, min_length=1)
    side: int = Field(default=4, ge=2, le=16)
    shuffled: bool = False


class EasyVQASource(Settings):
    type: Literal["easy-vqa"] = "easy-vqa"
    reader = EasyVQA
    split: Split
    turns: PositiveInt = 1


class JsonLinesSource(Settings):
    type: Literal["jsonl"] = "jsonl"
    reader = JsonLines
    path: Path


class LlavaSource(Settings):
    type: Literal["llava"] = "llava"
    reader = Llava
    path: Path
    images: Path | None = None
    system: str | None = Field(default=None, min_length=1)


class DatasetsSource(Settings):
    type: Literal["datasets"] = "datasets"
    reader = DatasetRows
    path: Path
    split: str | None = None
    columns: dict[str, str] | None = None
    images: Path | None = None


Source: TypeAlias = Annotated[
    ScenesSource
    | GridSource
    | EasyVQASource
    | JsonLinesSource
    | LlavaSource
    | DatasetsSource
    | VQAv2Source
    | GQASource
    | VSRSource
    | OCRVQASource
    | AOKVQASource
    | ScienceQASource
    | RefCOCOSource
    | VisualGenomeSource
    | KALESource
    | BLIP3OCRSource,
    Field(discriminator="type"),
]

__all__ = [
    "DatasetRows",
    "DatasetsSource",
    "EasyVQA",
    "EasyVQASource",
    "GridScenes",
    "GridSource",
    "JsonLines",
    "JsonLinesSource",
    "Llava",
    "LlavaSource",
    "Scenes",
    "ScenesSource",
    "Source",
]
