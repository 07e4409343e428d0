"""Visual Genome (https://homes.cs.washington.edu/~ranjay/visualgenome): phrases for regions of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import model_validator

from mutua.data.answer_box import Box
from mutua.data.readers.index import Row, row_of
from mutua.data.readers.instruction.boxes import Boxes, box_in_picture, box_text
from mutua.data.readers.instruction.prompts import region
from mutua.data.readers.json_stream import items
from mutua.data.readers.published import SYSTEM, PublishedSet, Record, Text, TurnsSettings, find_file
from mutua.data.sample import SampleError

_ONE_FOLDER = "images"
_REGION = ("region_id", "image_id", "x", "y", "width", "height", "phrase")


class Region(Record):
    region_id: int
    image_id: int
    x: float
    y: float
    width: float
    height: float
    phrase: Text
    image_width: int
    image_height: int
    folder: str

    @model_validator(mode="after")
    def _is_in_the_picture(self) -> Region:
        self.box()
        return self

    def box(self) -> Box:
        return box_in_picture(self.x, self.y, self.width, self.height, self.image_width, self.image_height)


class VisualGenome(PublishedSet[Region]):
    """A sample a region, or several of one picture: what is at a box.

    Pictures are in `images`; where there is no such folder, in the folders that `image_data.json` has in its addresses,
    `VG_100K` and `VG_100K_2`.

    Args:
        boxes: how the prompt writes it.
    """

    kind, record, picture_key = "visual-genome", Region, "image_id"

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
        self._is_one_folder = (self.pictures / _ONE_FOLDER).is_dir()

    def find_files(self) -> Sequence[Path]:
        regions = find_file(self.path, "region_descriptions.json")
        data = regions.with_name("image_data.json")
        if not data.is_file():
            raise SampleError(f"path: beside {regions} there is no image_data.json, which has the pictures' sizes")
        return regions, data

    def rows(self) -> Iterator[Row]:
        sizes = {}
        for nth, given in enumerate(items(self.files[1])):
            row = row_of(f"[{nth}]", given, ("image_id", "width", "height", "url"))
            problem = row.problem or _problem_of_image(given)
            if problem is None and given["image_id"] in sizes:
                problem = f"image_id: {given['image_id']} is there twice: remove one"
            if problem:
                yield Row(row.place, problem=problem, file=1)
            else:
                sizes[given["image_id"]] = given["width"], given["height"], _folder_of(given.get("url"))
        for nth, picture in enumerate(items(self.files[0])):
            regions = picture.get("regions") if isinstance(picture, dict) else None
            if not isinstance(regions, list):
                yield Row(f"[{nth}]", problem="regions: is missing, or no list")
                continue
            for place, given in enumerate(regions):
                yield _with_size(row_of(f"[{nth}].regions[{place}]", given, _REGION, "image_id"), sizes)

    def id(self, record: Region) -> str:
        return str(record.region_id)

    def picture(self, record: Region) -> str:
        return f"{_ONE_FOLDER if self._is_one_folder or not record.folder else record.folder}/{record.image_id}.jpg"

    def turn(self, record: Region) -> tuple[str, str]:
        return region(box_text(record.box(), self.boxes)), record.phrase


def _problem_of_image(given: dict[str, Any]) -> str | None:
    for key in ("image_id", "width", "height"):
        if not isinstance(given.get(key), int):
            return f"{key}: got {given.get(key)!r}, expected a whole number"
    return None


def _folder_of(url: Any) -> str:
    return PurePosixPath(urlsplit(url).path).parent.name if isinstance(url, str) else ""


def _with_size(row: Row, sizes: dict[int, tuple[int, int, str]]) -> Row:
    """The row of a region with what is known of its picture."""
    if row.record is None:
        return row
    image = row.record.get("image_id")
    if not isinstance(image, int):
        return Row(row.place, problem=f"image_id: got {image!r}, expected a whole number")
    if image not in sizes:
        return Row(row.place, problem=f"image_id: got {image}, which is not in image_data.json")
    width, height, folder = sizes[image]
    return Row(row.place, {**row.record, "image_width": width, "image_height": height, "folder": folder}, row.picture)


class VisualGenomeSource(TurnsSettings):
    type: Literal["visual-genome"] = "visual-genome"
    reader = VisualGenome
    boxes: Boxes = "fractions"
