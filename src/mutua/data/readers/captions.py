"""BLIP3-KALE and BLIP3-OCR-200m, the paper's pre-training data: pictures with captions, in tar or Parquet shards.

A sample is the picture, and the caption as the reply to it. No word is asked, so under MMA the picture has nothing to
look ahead to but the marks that open the reply; the paper's own mask is causal here.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from mutua.data.readers.dataset_rows import expect_whole, files_under, parquet_table
from mutua.data.readers.reader import Reader
from mutua.data.readers.settings import Settings
from mutua.data.readers.tar_shards import PICTURES, TarShards
from mutua.data.sample import ImagePart, Message, Sample, SampleError, TextPart, first_problem
from mutua.images import ImageError, open_image

_GRANULARITY = 1  # of the list of captions in BLIP3-OCR-200m, the one that the paper takes


class Captions(Reader):
    """The pictures and captions of shards, each read when it is asked for. Picklable.

    Args:
        path: a `.tar` or `.parquet` file, or a folder of such. Where a folder has both, the Parquet files are what
            img2dataset writes beside its tar files: a list of addresses.

    Raises:
        SampleError: no shard is there, one is damaged, missing or there twice, or they hold no pictures or captions.
    """

    kind: ClassVar[str]

    def __init__(self, path: str | Path) -> None:
        self.path = self.pictures = Path(path)
        self._shards = _open(self.path)

    @abstractmethod
    def text_of(self, caption: str) -> str:
        """What the model is to say of a caption as the shard holds it. ValueError where that is not there."""

    def __len__(self) -> int:
        return len(self._shards)

    def place(self, index: int) -> str:
        return self._shards.place(index)

    def without_images(self, index: int) -> Sample:
        """The sample, whole: its picture is in the shard."""
        index = range(len(self))[index]
        place = self.place(index)
        id, picture, caption = self._shards.read(index)
        try:
            image, reply = ImagePart(image=open_image(picture)), TextPart(text=self.text_of(caption).strip())
            messages = Message(role="user", content=(image,)), Message(role="assistant", content=(reply,))
            return Sample(id=id, messages=messages, source=self.kind)
        except ValidationError as error:
            problem = f"{place}: caption: {first_problem(error)[1]}"
            cause: Exception = error
        except ImageError as error:
            problem, cause = f"{place}: picture: {error}", error
        except ValueError as error:
            problem, cause = f"{place}: caption: {error}", error
        refused = SampleError(problem)
        refused.sample_id = id
        raise refused from cause


class KALE(Captions):
    """BLIP3-KALE (arXiv 2411.07461): the caption as it stands."""

    kind = "blip3-kale"

    def text_of(self, caption: str) -> str:
        return caption


class BLIP3OCR(Captions):
    """BLIP3-OCR-200m (arXiv 2408.08872): the caption is a JSON list, one text a granularity; the second is taken."""

    kind = "blip3-ocr"

    def text_of(self, caption: str) -> str:
        try:
            texts = json.loads(caption)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is no JSON list of texts by granularity: {error} (got {caption[:60]!r})") from None
        if not isinstance(texts, list) or len(texts) <= _GRANULARITY:
            raise ValueError(f"is no JSON list with an item {_GRANULARITY} (got {caption[:60]!r})")
        one = texts[_GRANULARITY]
        if not isinstance(one, dict) or not isinstance(one.get("text"), str):
            raise ValueError(f"[{_GRANULARITY}].text: is missing, or no text (got {caption[:60]!r})")
        return one["text"]


class KALESource(Settings):
    type: Literal["blip3-kale"] = "blip3-kale"
    reader = KALE
    path: Path


class BLIP3OCRSource(Settings):
    type: Literal["blip3-ocr"] = "blip3-ocr"
    reader = BLIP3OCR
    path: Path


class _ParquetShards:
    """Pictures with their captions, from Parquet files with the pictures' bytes."""

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        table = parquet_table(path, files)
        names = table.column_names
        self.picture = next((name for name in ("image", *PICTURES) if name in names), None)
        self.caption = next((name for name in ("caption", "captions") if name in names), None)
        self.id = next((name for name in ("key", "uid", "id") if name in names), None)
        if self.picture is None:
            raise SampleError(
                f"{path}: has no pictures in its columns {', '.join(names)}, and nothing is fetched from addresses: "
                "download them with img2dataset first, into tar or Parquet shards"
            )
        if self.caption is None:
            raise SampleError(f"{path}: has no column caption or captions: it has {', '.join(names)}")
        columns = [name for name in (self.picture, self.caption, self.id) if name is not None]
        self._table = table.select_columns(columns).with_format("arrow")

    def __len__(self) -> int:
        return len(self._table)

    def place(self, index: int) -> str:
        return f"{self.path}[{index}]"

    def read(self, index: int) -> tuple[str, Any, str]:
        (row,) = self._table[index].to_pylist()
        for name in (self.picture, self.caption):
            if row[name] is None:
                raise SampleError(f"{self.place(index)}: {name}: is missing")
        if not isinstance(row[self.caption], str):
            raise SampleError(
                f"{self.place(index)}: {self.caption}: is no text, but {type(row[self.caption]).__name__}"
            )
        return str(row[self.id] if self.id else index), row[self.picture], row[self.caption]


def _open(path: Path) -> TarShards | _ParquetShards:
    if not path.exists():
        remedy = "" if path.suffix else "; it is to hold .tar or .parquet shards"
        raise SampleError(f"path: there is no file or folder {path}{remedy}")
    tars, tables = (
        sorted(files_under(path, ending)) if path.is_dir() else [path] * (path.suffix == ending)
        for ending in (".tar", ".parquet")
    )
    if path.is_dir():
        expect_whole(path, tars or tables)
    if tars:
        return TarShards(tars)
    if tables:
        return _ParquetShards(path, tables)
    raise SampleError(f"path: {path} is no .tar or .parquet file, and holds none: give the shards, or their folder")
