"""JSON Lines as a source: one sample a line, images beside the file. This is how users bring their own data."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, overload

from PIL import Image
from pydantic import ValidationError

from mutua.data.sample import ImagePart, Message, Sample, SampleError, first_problem
from mutua.images import ImageError, open_image


class JsonLines(Sequence[Sample]):
    """The samples of a file; a line is read, checked and its images decoded when it is asked for.

    Relative image paths start at the file's folder; empty lines are skipped. Raises SampleError, which names the place.

    Attributes:
        content: CRC-32 of the file when it was opened; pictures are not part of it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise SampleError(f"{self.path}: no such file")
        self._lines: list[tuple[int, int]] = []  # (line number from 1, byte offset) of each sample
        offset = self.content = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._lines.append((number, offset))
                offset += len(line)
                self.content = zlib.crc32(line, self.content)

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        sample, number = self.without_images(index), self._lines[index][0]
        try:
            messages = tuple(self._with_images(number, m, message) for m, message in enumerate(sample.messages))
        except SampleError as error:
            error.sample_id = sample.id
            raise
        return sample.model_copy(update={"messages": messages, "source": sample.source or self.path.name})

    def without_images(self, index: int) -> Sample:
        """A sample whose pictures are paths still, as the file has them; they need not be there."""
        number, offset = self._lines[index]
        with self.path.open("rb") as file:
            file.seek(offset)
            line = file.readline()
        try:
            return Sample.model_validate(json.loads(line))
        except ValidationError as error:
            self._refuse(number, *first_problem(error))
        except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
            self._refuse(number, "", f"not valid JSON: {error}")

    def check(self) -> None:
        """Reads every sample with its images. Raises SampleError at the first that is wrong."""
        for index in range(len(self)):
            self[index]

    def _with_images(self, number: int, m: int, message: Message) -> Message:
        parts = [
            ImagePart(image=self._decode(number, f"messages.{m}.content.{p}.image", part.image))
            if isinstance(part, ImagePart) and isinstance(part.image, Path)
            else part
            for p, part in enumerate(message.content)
        ]
        return message.model_copy(update={"content": tuple(parts)})

    def _decode(self, number: int, field: str, image: Path) -> Image.Image:
        try:
            return open_image(self.path.parent / image)
        except ImageError as error:
            self._refuse(number, field, str(error))

    def _refuse(self, number: int, field: str, problem: str) -> NoReturn:
        raise SampleError(": ".join(part for part in (f"{self.path}:{number}", field, problem) if part))
