"""JSON Lines as a source: one sample a line, images beside the file. This is how users bring their own data."""

from pathlib import Path

from pydantic import ValidationError

from mutua.data.readers.json_records import JsonRecords
from mutua.data.readers.reader import Reader
from mutua.data.rows import has_foreign_layout
from mutua.data.sample import Sample, SampleError, first_problem


class JsonLines(Reader):
    """The samples of a file. Relative image paths start at the file's folder; empty lines are skipped.

    Attributes:
        content: CRC-32 of the file when it was opened; pictures are not part of it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.pictures = self.path.parent
        self._records = JsonRecords(self.path, "lines")
        self.content = self._records.content

    def __len__(self) -> int:
        return len(self._records)

    def place(self, index: int) -> str:
        return self._records.place(index)

    def without_images(self, index: int) -> Sample:
        row = self._records[index]
        if not isinstance(row, dict):
            raise SampleError(f"{self.place(index)}: a line is one JSON object, not {type(row).__name__}")
        try:
            return Sample.model_validate(row)
        except ValidationError as error:
            problem = ": ".join(part for part in (self.place(index), *first_problem(error)) if part)
            if has_foreign_layout(row):
                problem += "; rows of LLaVA, ShareGPT, ms-swift and TRL are read by the type llava"
            raise SampleError(problem) from error

    def _field(self, m: int, p: int) -> str:
        return f"messages.{m}.content.{p}.image: "

    def _hint(self) -> str:
        return ""
