"""GQA (https://cs.stanford.edu/people/dorarad/gqa): questions about the objects of Visual Genome's pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from mutua.data.readers.index import Row, row_of
from mutua.data.readers.instruction.prompts import short_answer
from mutua.data.readers.json_stream import entries
from mutua.data.readers.published import PublishedSet, Record, Text, TurnsSettings, find_file


class Question(Record):
    id: Text
    imageId: Text
    question: Text
    answer: Text


class GQA(PublishedSet[Question]):
    """A sample a question, or several about one picture; the short answer, not `fullAnswer`."""

    kind, record, picture_key = "gqa", Question, "imageId"

    def find_files(self) -> Sequence[Path]:
        return (find_file(self.path, "train_balanced_questions.json"),)

    def rows(self) -> Iterator[Row]:
        for id, given in entries(self.files[0]):
            row = row_of(f"[{id!r}]", given, ("imageId", "question", "answer"), "imageId")
            yield row if row.record is None else Row(row.place, {"id": id, **row.record}, row.picture)

    def id(self, record: Question) -> str:
        return record.id

    def picture(self, record: Question) -> str:
        return f"images/{record.imageId}.jpg"

    def turn(self, record: Question) -> tuple[str, str]:
        return short_answer(record.question), record.answer


class GQASource(TurnsSettings):
    type: Literal["gqa"] = "gqa"
    reader = GQA
