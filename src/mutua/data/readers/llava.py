"""Chats in the JSON of other trainers: LLaVA, ShareGPT, ms-swift."""

from pathlib import Path

from mutua.data.readers.json_records import JsonRecords
from mutua.data.readers.reader import Reader
from mutua.data.rows import sample_from_row
from mutua.data.sample import Message, Sample, SampleError, TextPart


class Llava(Reader):
    """The samples of a JSON list or of JSON Lines, in any of the forms of `mutua.data.rows`.

    Args:
        path: the file.
        images: the folder where the paths of its pictures start; left out, the file's.
        system: the system message of conversations that have none of their own; left out: none.

    Attributes:
        content: CRC-32 of the file when it was opened; pictures are not part of it.
    """

    def __init__(self, path: str | Path, images: str | Path | None = None, system: str | None = None) -> None:
        self.path, self.system = Path(path), system
        self._records = JsonRecords(self.path)
        self.pictures = pictures_folder(images, self.path.parent)
        self.content = self._records.content

    def __len__(self) -> int:
        return len(self._records)

    def place(self, index: int) -> str:
        return self._records.place(index)

    def without_images(self, index: int) -> Sample:
        index = range(len(self))[index]
        name = self.path.name
        sample = sample_from_row(self._records[index], self.place(index), name, f"{name}[{index}]")
        if self.system is None or sample.messages[0].role == "system":
            return sample
        system = Message(role="system", content=(TextPart(text=self.system),))
        return sample.model_copy(update={"messages": (system, *sample.messages)})


def pictures_folder(given: str | Path | None, default: Path) -> Path:
    """The folder where the paths of pictures start. SampleError where it is given and is none."""
    if given is None:
        return default
    folder = Path(given)
    if not folder.is_dir():
        raise SampleError(f"images: there is no folder {folder}; give the one where the paths of the pictures start")
    return folder
