"""Sources of samples, and the settings by which a recipe names one.

A reader is a map-style `Sequence[Sample]`: cheap to make, lazy about images, picklable. A new source is one file here
and one class below.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from mutua.data.grid import GridScenes
from mutua.data.grid.questions import MAIN_FAMILIES
from mutua.data.grid.questions import Family as GridFamily
from mutua.data.grid.world import Split as GridSplit
from mutua.data.readers.dataset_rows import DatasetRows
from mutua.data.readers.easy_vqa import EasyVQA
from mutua.data.readers.jsonl import JsonLines
from mutua.data.readers.llava import Llava
from mutua.data.scenes import Scenes
from mutua.data.scenes.questions import EVAL_FAMILIES, Family
from mutua.data.scenes.scene import Split


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScenesSource(_Settings):
    type: Literal["scenes"] = "scenes"
    split: Split
    size: NonNegativeInt
    seed: int = 0
    families: tuple[Family, ...] = Field(default=EVAL_FAMILIES, min_length=1)
    turns: PositiveInt = 1

    def open(self) -> Scenes:
        return Scenes(self.split, self.size, self.seed, self.families, self.turns)


class GridSource(_Settings):
    type: Literal["grid"] = "grid"
    split: GridSplit
    size: NonNegativeInt
    seed: int = 0
    families: tuple[GridFamily, ...] = Field(default=MAIN_FAMILIES, min_length=1)
    side: int = Field(default=4, ge=2, le=16)
    shuffled: bool = False

    def open(self) -> GridScenes:
        return GridScenes(self.split, self.size, self.seed, self.families, self.side, self.shuffled)


class EasyVQASource(_Settings):
    type: Literal["easy-vqa"] = "easy-vqa"
    split: Split
    turns: PositiveInt = 1

    def open(self) -> EasyVQA:
        return EasyVQA(self.split, self.turns)


class JsonLinesSource(_Settings):
    type: Literal["jsonl"] = "jsonl"
    path: Path

    def open(self) -> JsonLines:
        return JsonLines(self.path)


class LlavaSource(_Settings):
    type: Literal["llava"] = "llava"
    path: Path
    images: Path | None = None

    def open(self) -> Llava:
        return Llava(self.path, self.images)


class DatasetsSource(_Settings):
    type: Literal["datasets"] = "datasets"
    path: Path
    split: str | None = None
    columns: dict[str, str] | None = None
    images: Path | None = None

    def open(self) -> DatasetRows:
        return DatasetRows(self.path, self.split, self.columns, self.images)


Source: TypeAlias = Annotated[
    ScenesSource | GridSource | EasyVQASource | JsonLinesSource | LlavaSource | DatasetsSource,
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
