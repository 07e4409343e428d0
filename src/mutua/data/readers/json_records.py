"""The records of a JSON file, one line each or the items of one list, found without keeping what they hold."""

from __future__ import annotations

import json
import zlib
from array import array
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mutua.data.readers.json_scan import BOM, CHUNK, JsonScan
from mutua.data.sample import SampleError


class JsonRecords:
    """Where the records of a file are; a record is parsed when it is asked for. Empty lines are skipped.

    Of a file of gigabytes this keeps a few bytes a record, so that it can be handed to other processes.

    Args:
        path: the file.
        form: what it must be; None takes a file that begins with a bracket for a list.

    Attributes:
        content: CRC-32 of the file when it was opened.

    Raises:
        SampleError: no such file, not of that form, or a list that is damaged.
    """

    def __init__(self, path: Path, form: Literal["lines"] | None = None) -> None:
        self.path, self.content = path, 0
        self.form = form_of(path)
        if form not in (None, self.form):
            raise SampleError(f"{path}: holds a JSON list, not a sample a line: the type llava reads it")
        self._starts, self._ends, self._lines = array("Q"), array("Q"), array("Q")
        with path.open("rb") as file:
            if self.form == "list":
                self._index_list(file)
            else:
                self._index_lines(file)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Any:
        """The record, parsed. SampleError where it is not JSON."""
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            record = file.read(self._ends[index] - self._starts[index])
        try:
            return parse(record)
        except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
            raise SampleError(f"{self.place(index)}: not valid JSON: {error}") from None

    def place(self, index: int) -> str:
        """`data.jsonl:17` for a line, counted from 1; `data.json[16]` for an item, counted from 0 as Python does."""
        return f"{self.path}:{self._lines[index]}" if self.form == "lines" else f"{self.path}[{index}]"

    def _index_list(self, file: BinaryIO) -> None:
        scan = JsonScan(self.path, file, _DECODER)
        for _ in scan.items():
            self._starts.append(scan.start)
            self._ends.append(scan.end)
        scan.expect_end("list")
        self.content = scan.content

    def _index_lines(self, file: BinaryIO) -> None:
        offset = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                self._lines.append(number)
                self._starts.append(offset)
                self._ends.append(offset + len(line))
            offset += len(line)
            self.content = zlib.crc32(line, self.content)


def parse(record: bytes) -> Any:
    """What a record holds. ValueError or RecursionError where it is not JSON in UTF-8, or a key is there twice."""
    return json.loads(record.decode("utf-8-sig"), object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a key come twice, and Python takes the last one without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice: remove one")
    return found


_DECODER = json.JSONDecoder()


def form_of(path: Path) -> Literal["lines", "list"]:
    """What a JSON file is, by its first letter. SampleError where there is none."""
    if not path.is_file():
        raise SampleError(f"{path}: {'is no file: name the file' if path.exists() else 'no such file'}")
    with path.open("rb") as file:
        start = file.read(CHUNK)
    return "list" if start.removeprefix(BOM).lstrip().startswith(b"[") else "lines"
