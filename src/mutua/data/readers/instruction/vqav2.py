"""VQAv2 (https://visualqa.org): questions about COCO pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from mutua.data.readers.index import Row, row_of
from mutua.data.readers.instruction.prompts import short_answer
from mutua.data.readers.json_stream import items, value
from mutua.data.readers.published import PublishedSet, Record, Text, TurnsSettings, find_file
from mutua.data.sample import SampleError

_QUESTIONS = "v2_OpenEnded_mscoco_train2014_questions.json"


class Question(Record):
    question_id: int
    image_id: int
    question: Text
    multiple_choice_answer: Text
    data_subtype: Text


class VQAv2(PublishedSet[Question]):
    """A sample a question, or several about one picture; the answer is the one that most people gave.

    The annotations lie beside the questions, under their published name.
    """

    kind, record, picture_key = "vqav2", Question, "image_id"

    def find_files(self) -> Sequence[Path]:
        questions = find_file(self.path, _QUESTIONS)
        name = questions.name.replace("OpenEnded_", "").replace("_questions", "_annotations")
        annotations = questions.with_name(name)
        if name == questions.name or not annotations.is_file():
            raise SampleError(
                f"path: beside {questions} there is no file with the answers, such as v2_mscoco_train2014_annotations"
                f".json for {_QUESTIONS}"
            )
        return questions, annotations

    def rows(self) -> Iterator[Row]:
        questions, annotations = self.files
        subtype = value(questions, "data_subtype")
        answers: dict[Any, tuple[int, Any]] = {}  # by question: the place and the answer
        for nth, given in enumerate(items(annotations, "annotations")):
            row = row_of(f": annotations[{nth}]", given, ("question_id", "multiple_choice_answer"))
            problem, asked = row.problem, None if row.record is None else row.record.get("question_id")
            if problem is None and not isinstance(asked, int):
                problem = f"question_id: got {asked!r}, expected a number"
            elif asked in answers:
                problem = f"question_id: {asked} is there twice, also in annotations[{answers[asked][0]}]: remove one"
            if problem is not None:
                yield Row(row.place, problem=problem, file=1)
            else:
                answers[asked] = nth, given.get("multiple_choice_answer")
        for nth, given in enumerate(items(questions, "questions")):
            row = row_of(f": questions[{nth}]", given, ("question_id", "image_id", "question"), "image_id")
            asked = None if row.record is None else row.record.get("question_id")
            if row.record is None or not isinstance(asked, int):
                yield row
            elif asked not in answers:
                yield Row(row.place, problem=f"question_id: {asked} has no answer left in {annotations.name}")
            else:
                answer = answers.pop(asked)[1]
                more = {"data_subtype": subtype, "multiple_choice_answer": answer}
                yield Row(row.place, {**row.record, **more}, row.picture)
        for asked, (nth, _) in answers.items():
            yield Row(f": annotations[{nth}]", problem=f"question_id: no question {asked}", file=1)

    def id(self, record: Question) -> str:
        return str(record.question_id)

    def picture(self, record: Question) -> str:
        return f"{record.data_subtype}/COCO_{record.data_subtype}_{record.image_id:012d}.jpg"

    def turn(self, record: Question) -> tuple[str, str]:
        return short_answer(record.question), record.multiple_choice_answer


class VQAv2Source(TurnsSettings):
    type: Literal["vqav2"] = "vqav2"
    reader = VQAv2
