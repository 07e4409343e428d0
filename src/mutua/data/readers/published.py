"""What the published data sets have in common: files of a known form, an index of their records, one chat a picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, ValidationError

from mutua.data.readers.index import Row, conversations, open_index
from mutua.data.readers.llava import pictures_folder
from mutua.data.readers.reader import Reader
from mutua.data.readers.settings import Settings
from mutua.data.sample import ImagePart, Message, Sample, SampleError, TextPart, first_problem

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
"""The system message of the paper's instruction tuning (arXiv 2503.02597)."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Record(BaseModel):
    """What a sample takes of one record of a published file, by the file's own names."""

    model_config = ConfigDict(frozen=True, strict=True)


R = TypeVar("R", bound=Record)


class PublishedSettings(Settings):
    """`images`: the folder where the paths of pictures start; left out, that of the files. `system`: the system
    message; null: none."""

    path: Path
    images: Path | None = None
    system: str | None = Field(default=SYSTEM, min_length=1)


class TurnsSettings(PublishedSettings):
    """`turns`: how many questions about one picture a conversation may have."""

    turns: PositiveInt = 1


class PublishedSet(Reader, Generic[R]):
    """Questions and answers of published files. Picklable; its memory does not grow with the set.

    A subclass says which files, what their records are, and what is asked about which picture.

    Args:
        path: the folder of the files, or the file.
        images: the folder where the paths of pictures start; left out, that of the files.
        system: the system message; None: none.
        turns: how many questions about one picture a conversation may have. Every question is in one conversation.

    Raises:
        SampleError: a file is missing, is damaged or of another form, or the cache cannot be written.

    Attributes:
        content: CRC-32 of the records; pictures are not part of it.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the same files give other rows than before."""
    picture_key: ClassVar[str]
    """The key that names the picture, for errors."""
    record: type[R]

    def __init__(
        self, path: str | Path, images: str | Path | None = None, system: str | None = SYSTEM, turns: int = 1
    ) -> None:
        if turns < 1:
            raise ValueError(f"turns {turns}: must be at least 1")
        self.path, self.system = Path(path), system
        self.files = self.find_files()
        self.pictures = pictures_folder(images, self.files[0].parent)
        key = [self.version, sorted(self.record.model_fields)]
        self._index = open_index(self.kind, key, self.files, self.rows)
        self._conversations = conversations(self._index, turns) if turns > 1 else None
        self.content = self._index.facts["content"]

    @abstractmethod
    def find_files(self) -> Sequence[Path]:
        """The files under `self.path`."""

    @abstractmethod
    def rows(self) -> Iterable[Row]:
        """All records of the files. What is wrong with one is for its row to say; SampleError is for a whole file."""

    @abstractmethod
    def id(self, record: R) -> str:
        """Names the record in its set."""

    @abstractmethod
    def picture(self, record: R) -> str | None:
        """The path of its picture, from the folder of pictures; None where it is about none."""

    @abstractmethod
    def turn(self, record: R) -> tuple[str, str]:
        """What is asked and what is answered."""

    def __len__(self) -> int:
        return len(self._index if self._conversations is None else self._conversations)

    def place(self, index: int) -> str:
        return self._place(self._rows_of(index)[0])

    def without_images(self, index: int) -> Sample:
        rows = self._rows_of(index)
        records = [self._record(row) for row in rows]
        messages = [] if self.system is None else [Message(role="system", content=(TextPart(text=self.system),))]
        picture = self.picture(records[0])
        parts = [] if picture is None else [ImagePart(image=Path(picture))]
        try:
            for record in records:
                asked, answered = self.turn(record)
                messages.append(Message(role="user", content=(*parts, TextPart(text=asked))))
                messages.append(Message(role="assistant", content=(TextPart(text=answered),)))
                parts = []
            return Sample(id=self.id(records[0]), messages=tuple(messages), source=self.kind)
        except ValidationError as error:  # a text that is none in UTF-8
            raise SampleError(f"{self._place(rows[0])}: {first_problem(error)[1]}") from error

    def _rows_of(self, index: int) -> list[dict]:
        index = range(len(self))[index]
        numbers = [index] if self._conversations is None else self._conversations[index]["rows"]
        return [self._index[number] for number in numbers]

    def _record(self, row: dict) -> R:
        if row["problem"] is not None:
            raise SampleError(f"{self._place(row)}: {row['problem']}")
        try:
            return self.record.model_validate_json(row["record"])
        except ValidationError as error:
            field, problem = first_problem(error)
            raise SampleError(": ".join(part for part in (self._place(row), field, problem) if part)) from error

    def _place(self, row: dict) -> str:
        return f"{self.files[row['file']]}{row['place']}"

    def _field(self, m: int, p: int) -> str:
        return f"{self.picture_key}: "


def find_file(path: Path, *names: str) -> Path:
    """The path itself where it is a file; else the one of these that is in the folder.

    Raises:
        SampleError: none of them is, or several are.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        remedy = "" if path.suffix else f"; it is to hold {' or '.join(names)}"
        raise SampleError(f"path: there is no file or folder {path}{remedy}")
    found = [name for name in names if (path / name).is_file()]
    if not found:
        raise SampleError(f"path: in the folder {path} there is no {' or '.join(names)}: give the folder that has it")
    if len(found) > 1:
        raise SampleError(f"path: in the folder {path} there are {' and '.join(found)}: give the path of one of them")
    return path / found[0]
