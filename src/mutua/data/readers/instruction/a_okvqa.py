"""A-OKVQA (arXiv 2206.01718): questions about COCO pictures that need knowledge, with four choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mutua.data.readers.index import Row, row_of
from mutua.data.readers.instruction.prompts import MOST_CHOICES, asked_by_letter, choice_order
from mutua.data.readers.json_stream import items
from mutua.data.readers.published import SYSTEM, PublishedSet, Record, Text, TurnsSettings, find_file


class Question(Record):
    split: Literal["train", "val"]
    image_id: int
    question_id: Text
    question: Text
    choices: tuple[Text, ...] = Field(min_length=2, max_length=MOST_CHOICES)
    correct_choice_idx: int

    @model_validator(mode="after")
    def _has_its_answer(self) -> Question:
        if not 0 <= self.correct_choice_idx < len(self.choices):
            raise ValueError(f"correct_choice_idx: got {self.correct_choice_idx}, of {len(self.choices)} choices")
        return self


class AOKVQA(PublishedSet[Question]):
    """A sample a question, or several about one picture; the answer is the letter of the right choice.

    Args:
        shuffle: lists the choices in an order of their own for every question, a pure function of `seed` and the
            question; else as the file does.
    """

    kind, record, picture_key = "a-okvqa", Question, "image_id"

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        system: str | None = SYSTEM,
        turns: int = 1,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(path, images, system, turns)
        self.shuffle, self.seed = shuffle, seed

    def find_files(self) -> Sequence[Path]:
        return (find_file(self.path, "aokvqa_v1p0_train.json"),)

    def rows(self) -> Iterator[Row]:
        for nth, given in enumerate(items(self.files[0])):
            yield row_of(f"[{nth}]", given, Question.model_fields, "image_id")

    def id(self, record: Question) -> str:
        return record.question_id

    def picture(self, record: Question) -> str:
        return f"{record.split}2017/{record.image_id:012d}.jpg"

    def turn(self, record: Question) -> tuple[str, str]:
        number = len(record.choices)
        order = choice_order(number, self.seed, record.question_id) if self.shuffle else range(number)
        return asked_by_letter(record.question, record.choices, record.correct_choice_idx, order)


class AOKVQASource(TurnsSettings):
    type: Literal["a-okvqa"] = "a-okvqa"
    reader = AOKVQA
    shuffle: bool = True
    seed: int = 0
