"""RefCOCO, RefCOCO+ and RefCOCOg in COCO's form, as MDETR published them (arXiv 2104.12763): one object in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from mutua.data.answer_box import Box
from mutua.data.readers.index import Row, row_of
from mutua.data.readers.instruction.boxes import Boxes, box_in_picture, box_text
from mutua.data.readers.instruction.prompts import region
from mutua.data.readers.json_stream import items
from mutua.data.readers.published import SYSTEM, PublishedSet, Record, Text, TurnsSettings, find_file
from mutua.data.sample import SampleError

_FILES = ("finetune_refcoco_train.json", "finetune_refcoco+_train.json", "finetune_refcocog_train.json")


class Expression(Record):
    id: int
    image_id: int
    file_name: Text
    width: int
    height: int
    caption: Text
    bbox: tuple[float, float, float, float]

    @model_validator(mode="after")
    def _is_whole(self) -> Expression:
        if self.id != self.image_id:
            raise ValueError(f"image_id: got {self.image_id}, and the image in the same place has the id {self.id}")
        self.box()
        return self

    def box(self) -> Box:
        return box_in_picture(*self.bbox, self.width, self.height)


class RefCOCO(PublishedSet[Expression]):
    """A sample an expression, or several about one picture: what is at a box.

    Args:
        boxes: how the prompt writes it.
    """

    kind, record, picture_key = "refcoco", Expression, "file_name"

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        system: str | None = SYSTEM,
        turns: int = 1,
        boxes: Boxes = "fractions",
    ) -> None:
        super().__init__(path, images, system, turns)
        self.boxes = boxes

    def find_files(self) -> Sequence[Path]:
        pickles = sorted(self.path.glob("*.p")) if self.path.is_dir() else [self.path]
        if pickles and pickles[0].suffix == ".p" and not any((self.path / name).is_file() for name in _FILES):
            raise SampleError(
                f"path: {pickles[0]} is a pickle, which may run anything where it is read, and is not read: give the "
                f"same set in COCO's form, such as {_FILES[0]}, from the annotations of MDETR"
            )
        return (find_file(self.path, *_FILES),)

    def rows(self) -> Iterator[Row]:
        images, annotations = (items(self.files[0], key) for key in ("images", "annotations"))
        for nth, (image, annotation) in enumerate(zip_longest(images, annotations)):
            one = row_of(f": images[{nth}]", image, ("id", "file_name", "width", "height", "caption"), "file_name")
            other = row_of(f": annotations[{nth}]", annotation, ("image_id", "bbox"))
            if image is None or annotation is None:
                there, missing = (other, "images") if image is None else (one, "annotations")
                yield Row(there.place, problem=f"has no fellow: {missing} ends before {missing}[{nth}]")
            elif one.record is None or other.record is None:
                yield one if one.record is None else other
            else:
                yield Row(one.place, {**one.record, **other.record}, one.picture)

    def id(self, record: Expression) -> str:
        return str(record.id)

    def picture(self, record: Expression) -> str:
        return f"train2014/{record.file_name}"

    def turn(self, record: Expression) -> tuple[str, str]:
        return region(box_text(record.box(), self.boxes)), record.caption


class RefCOCOSource(TurnsSettings):
    type: Literal["refcoco"] = "refcoco"
    reader = RefCOCO
    boxes: Boxes = "fractions"
