"""OCR-VQA (https://ocr-vqa.github.io): questions about the covers of books."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from mutua.data.readers.index import Row, row_of
from mutua.data.readers.instruction.prompts import short_answer
from mutua.data.readers.json_stream import entries
from mutua.data.readers.published import PublishedSet, Record, Text, TurnsSettings, find_file

_TRAIN, _SPLITS = 1, (1, 2, 3)


class Question(Record):
    id: Text
    nth: int
    imageURL: Text
    question: Text
    answer: Text


class OCRVQA(PublishedSet[Question]):
    """A sample a question of the training split, or several about one cover."""

    kind, record, picture_key = "ocr-vqa", Question, "imageURL"

    def find_files(self) -> Sequence[Path]:
        return (find_file(self.path, "dataset.json"),)

    def rows(self) -> Iterator[Row]:
        for id, given in entries(self.files[0]):
            place = f"[{id!r}]"
            book = row_of(place, given, ("imageURL", "questions", "answers", "split"))
            if book.record is None:
                yield book
                continue
            questions, answers, split = (book.record.get(key) for key in ("questions", "answers", "split"))
            if split not in _SPLITS or isinstance(split, bool):
                yield Row(place, problem=f"split: got {split!r}, expected 1 (train), 2 or 3")
            elif split == _TRAIN:
                yield from _pairs(id, place, book.record.get("imageURL"), questions, answers)

    def id(self, record: Question) -> str:
        return f"{record.id}-{record.nth}"

    def picture(self, record: Question) -> str:
        return f"images/{record.id}{PurePosixPath(urlsplit(record.imageURL).path).suffix}"

    def turn(self, record: Question) -> tuple[str, str]:
        return short_answer(record.question), record.answer


def _pairs(id: str, place: str, url: Any, questions: Any, answers: Any) -> Iterator[Row]:
    for key, given in (("questions", questions), ("answers", answers)):
        if not isinstance(given, list):
            yield Row(place, problem=f"{key}: got {given!r}, expected a list")
            return
    if len(questions) != len(answers):
        yield Row(place, problem=f"questions, answers: {len(questions)} and {len(answers)}: they do not pair")
        return
    for nth, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        record = {"id": id, "nth": nth, "imageURL": url, "question": question, "answer": answer}
        yield Row(f"{place}: questions[{nth}]", record, id)


class OCRVQASource(TurnsSettings):
    type: Literal["ocr-vqa"] = "ocr-vqa"
    reader = OCRVQA
