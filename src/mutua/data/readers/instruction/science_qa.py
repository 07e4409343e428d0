"""ScienceQA (https://scienceqa.github.io): questions of school science with choices, half of them about a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mutua.data.readers.index import Row, row_of
from mutua.data.readers.instruction.prompts import MOST_CHOICES, asked_by_letter, choice_order
from mutua.data.readers.json_stream import entries
from mutua.data.readers.published import SYSTEM, PublishedSet, PublishedSettings, Record, Text, find_file

_TRAIN, _SPLITS = "train", ("train", "val", "test")


class Question(Record):
    id: Text
    question: Text
    choices: tuple[Text, ...] = Field(min_length=2, max_length=MOST_CHOICES)
    answer: int
    hint: str
    image: Text | None

    @model_validator(mode="after")
    def _has_its_answer(self) -> Question:
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(f"answer: got {self.answer}, of {len(self.choices)} choices")
        return self


class ScienceQA(PublishedSet[Question]):
    """A sample a question of the training split, the one without a picture as text alone.

    Args:
        shuffle: lists the choices in an order of their own for every question, a pure function of `seed` and the
            question; else as the file does.
    """

    kind, record, picture_key = "science-qa", Question, "image"

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        system: str | None = SYSTEM,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(path, images, system)
        self.shuffle, self.seed = shuffle, seed

    def find_files(self) -> Sequence[Path]:
        return (find_file(self.path, "problems.json"),)

    def rows(self) -> Iterator[Row]:
        for id, given in entries(self.files[0]):
            row = row_of(f"[{id!r}]", given, ("question", "choices", "answer", "hint", "image"))
            if row.record is None:
                yield row
            elif (split := given.get("split")) not in _SPLITS:
                yield Row(row.place, problem=f"split: got {split!r}, expected one of {', '.join(_SPLITS)}")
            elif split == _TRAIN:
                yield Row(row.place, {"id": id, **row.record})

    def id(self, record: Question) -> str:
        return record.id

    def picture(self, record: Question) -> str | None:
        return None if record.image is None else f"images/{_TRAIN}/{record.id}/{record.image}"

    def turn(self, record: Question) -> tuple[str, str]:
        number = len(record.choices)
        order = choice_order(number, self.seed, record.id) if self.shuffle else range(number)
        return asked_by_letter(record.question, record.choices, record.answer, order, record.hint.strip())


class ScienceQASource(PublishedSettings):
    type: Literal["science-qa"] = "science-qa"
    reader = ScienceQA
    shuffle: bool = True
    seed: int = 0
