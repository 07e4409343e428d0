"""Tar files of WebDataset: what has one name up to the first dot is one record. Each is read without the others."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mutua.data.readers.index import Row, open_index
from mutua.data.sample import SampleError

PICTURES = ("jpg", "jpeg", "png", "webp")
_CAPTION = "txt"
_VERSION = 2  # of the rows: raised when the same files give other rows than before
_NAME = re.compile(r"^((?:.*/)?[^./]+)\.([^/]+)$")
_NO_TEXT = re.compile(r"[\ud800-\udfff]")  # tarfile's stand-ins for bytes of a name that is not in UTF-8


class TarShards:
    """Pictures with their captions, from an index of where they stand in the files. Picklable.

    Raises:
        SampleError: a file is no tar file, is compressed, cut off or damaged, or there is nothing in any.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self._index = open_index("tar", [_VERSION, PICTURES], files, self._rows)

    def __len__(self) -> int:
        return len(self._index)

    def place(self, index: int) -> str:
        return self._place(self._index[index])

    def read(self, index: int) -> tuple[str, bytes, str]:
        """Name, picture file and caption of a record. SampleError where one of them is missing or cut off."""
        row = self._index[index]
        place = self._place(row)
        if row["problem"] is not None:
            raise SampleError(f"{place}: {row['problem']}")
        record = json.loads(row["record"])
        with self.files[row["file"]].open("rb") as file:
            picture, caption = (_part(file, record[name], f"{place}: {name}") for name in ("picture", "caption"))
        try:
            return record["name"], picture, caption.decode()
        except UnicodeDecodeError as error:
            raise SampleError(f"{place}: {_CAPTION}: is no text in UTF-8: {error.reason}") from None

    def _place(self, row: dict[str, Any]) -> str:
        return f"{self.files[row['file']]}{row['place']}"

    def _rows(self) -> Iterator[Row]:
        for number, path in enumerate(self.files):
            for name, members in groupby(_members(path), lambda member: _named(member)[0]):
                yield _row(name, list(members), number)


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The files in a tar file, one header after the other."""
    try:
        with tarfile.open(path, "r:") as file:
            while (member := file.next()) is not None:
                file.members = []  # type: ignore[attr-defined]  # else it keeps all of them
                if member.isfile():
                    yield member
            _expect_end(path, file.offset)
    except (tarfile.TarError, EOFError) as error:
        raise SampleError(
            f"{path}: cannot be read as a tar file: {error}. A compressed one is unpacked first; else fetch it anew"
        ) from None


def _expect_end(path: Path, start: int) -> None:
    """Raises ReadError where something else than zeros, a block of them at least, is behind the last file of a tar.

    `next` tells neither a tar that is cut off between two files, nor a damaged header, nor one tar behind another.
    """
    size = 0
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(2**20):
            size += len(block)
            if block.strip(b"\0"):
                raise tarfile.ReadError(
                    f"at byte {start} begins neither a file nor its end, zeros alone: it is damaged, or several in one"
                )
    if size < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it is cut off at byte {start + size}, before the zeros that a tar file ends with")


def _named(member: tarfile.TarInfo) -> tuple[str, str]:
    """Of `shard/000017.jpg` the record's name and what this part of it is."""
    found = _NAME.match(member.name)
    return (found[1], found[2].lower()) if found else (member.name, "")


def _row(name: str, members: Sequence[tarfile.TarInfo], file: int) -> Row:
    place = f": {name}"
    if _NO_TEXT.search(name):
        return Row(place, problem="has a name that is no text in UTF-8: pack it under another", file=file)
    parts: dict[str, list[tuple[int, int]]] = {"picture": [], "caption": []}
    for member in members:
        ending = _named(member)[1]
        if ending in PICTURES or ending == _CAPTION:
            parts["caption" if ending == _CAPTION else "picture"].append((member.offset_data, member.size))
    for what, found in parts.items():
        if len(found) != 1:
            endings = ", ".join(PICTURES) if what == "picture" else _CAPTION
            return Row(place, problem=f"has {len(found)} files for its {what} ({endings}), and needs one", file=file)
    return Row(place, {"name": name, "picture": parts["picture"][0], "caption": parts["caption"][0]}, file=file)


def _part(file: Any, span: Sequence[int], place: str) -> bytes:
    start, size = span
    file.seek(start)
    part = file.read(size)
    if len(part) < size:
        raise SampleError(f"{place}: the file is cut off, or has changed since it was opened")
    return part
