"""VSR, Visual Spatial Reasoning (arXiv 2205.00363): whether a caption about two objects is true of a COCO picture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from mutua.data.readers.index import Row, row_of
from mutua.data.readers.instruction.prompts import short_answer
from mutua.data.readers.json_records import JsonRecords
from mutua.data.readers.published import PublishedSet, Record, Text, TurnsSettings, find_file
from mutua.data.sample import SampleError

_VERB = re.compile(r"^(.+?) (is|are) (.+)$", re.DOTALL)


class Caption(Record):
    image: Text
    image_link: Text
    caption: Text
    label: Literal[0, 1]


class VSR(PublishedSet[Caption]):
    """A sample a caption, asked as a question, or several about one picture."""

    kind, record, picture_key = "vsr", Caption, "image_link"

    def find_files(self) -> Sequence[Path]:
        return (find_file(self.path, "train.jsonl", "train-random.jsonl"),)

    def rows(self) -> Iterator[Row]:
        lines = JsonRecords(self.files[0], "lines")
        for nth in range(len(lines)):
            place = lines.place(nth).removeprefix(str(self.files[0]))
            try:
                given = lines[nth]
            except SampleError as error:
                yield Row(place, problem=str(error).removeprefix(f"{lines.place(nth)}: "))
                continue
            yield row_of(place, given, ("image", "image_link", "caption", "label"), "image")

    def id(self, record: Caption) -> str:
        return f"{PurePosixPath(record.image).stem}: {record.caption}"

    def picture(self, record: Caption) -> str:
        folder = PurePosixPath(urlsplit(record.image_link).path).parent.name
        return f"{folder}/{record.image}"

    def turn(self, record: Caption) -> tuple[str, str]:
        question = f"{as_question(record.caption)} Please answer yes or no."
        return short_answer(question), "yes" if record.label else "no"


def as_question(caption: str) -> str:
    """Whether a statement is true: "The cat is on the mat." gives "Is the cat on the mat?".

    One without "is" or "are" is asked about whole: "Is it true that the box contains the cat?"
    """
    statement = caption.strip().rstrip(".")
    statement = statement[:1].lower() + statement[1:]
    if found := _VERB.match(statement):
        subject, verb, rest = found.groups()
        return f"{verb.capitalize()} {subject} {rest}?"
    return f"Is it true that {statement}?"


class VSRSource(TurnsSettings):
    type: Literal["vsr"] = "vsr"
    reader = VSR
