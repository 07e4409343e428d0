"""The records of a JSON file, one line each or the items of one list, found without keeping what they hold."""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mutua.data.sample import SampleError

_CHUNK = 1 << 22  # bytes
_BOM = b"\xef\xbb\xbf"
_SPACE = " \t\r\n"
_LONGEST_LITERAL = 16  # characters; -Infinity, or an escape of four digits, cut anywhere


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
                for start, end in self._items(file):
                    self._starts.append(start)
                    self._ends.append(end)
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

    def _index_lines(self, file: BinaryIO) -> None:
        offset = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                self._lines.append(number)
                self._starts.append(offset)
                self._ends.append(offset + len(line))
            offset += len(line)
            self.content = zlib.crc32(line, self.content)

    def _items(self, file: BinaryIO) -> Iterator[tuple[int, int]]:
        """First byte and end of every item of the file's list, read a chunk at a time.

        Every byte is taken for a character (latin-1), so that places among characters are places among bytes. What is
        not ASCII stands inside strings in JSON, and does not change where an item ends.
        """
        text, before, at = "", 0, 0  # what is looked at, the bytes before it, and the place in it
        due = "["
        count = 0
        is_whole = False

        def more() -> None:
            nonlocal text, before, at, is_whole
            # At least as much again: an item that is longer than a chunk is tried a few times only.
            chunk = file.read(max(_CHUNK, len(text) - at))
            self.content = zlib.crc32(chunk, self.content)
            text, before, at, is_whole = text[at:] + chunk.decode("latin-1"), before + at, 0, not chunk

        more()
        if text.startswith(_BOM.decode("latin-1")):
            at = len(_BOM)
        while True:
            while at < len(text) and text[at] in _SPACE:
                at += 1
            if at == len(text) and not is_whole:
                more()
                continue
            letter = text[at : at + 1]
            if due == "end":
                if letter:
                    self._damaged(before + at, count, "something follows the list")
                return
            if letter == "]" and (due == "," or (due == "item" and not count)):
                at, due = at + 1, "end"
            elif due in ("[", ","):
                if letter != due:
                    self._damaged(before + at, count, f"a {due!r} is missing" if letter else "the file is cut off")
                at, due = at + 1, "item"
            else:
                try:
                    _, end = _DECODER.raw_decode(text, at)
                except (ValueError, RecursionError) as error:
                    problem = str(getattr(error, "msg", error))
                    if _is_surely_wrong(error, text):
                        self._damaged(before + at, count, problem)
                    if is_whole:
                        self._damaged(before + at, count, f"the file is cut off or damaged ({problem})")
                    more()
                    continue
                if end == len(text) and not is_whole:  # a number may go on
                    more()
                    continue
                yield before + at, before + end
                at, due, count = end, ",", count + 1

    def _damaged(self, byte: int, count: int, problem: str) -> None:
        raise SampleError(
            f"{self.path}: not valid JSON at byte {byte}, in or before item {count} (counted from 0): {problem}. Fetch "
            "or write the file anew"
        )


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


def _is_surely_wrong(error: Exception, text: str) -> bool:
    """Whether more of the file cannot help: what is wrong lies before the place where the text was cut."""
    if not isinstance(error, json.JSONDecodeError):
        return True
    return not error.msg.startswith("Unterminated string") and error.pos < len(text) - _LONGEST_LITERAL


def form_of(path: Path) -> Literal["lines", "list"]:
    """What a JSON file is, by its first letter. SampleError where there is none."""
    if not path.is_file():
        raise SampleError(f"{path}: {'is no file: name the file' if path.exists() else 'no such file'}")
    with path.open("rb") as file:
        start = file.read(_CHUNK)
    return "list" if start.removeprefix(_BOM).lstrip().startswith(b"[") else "lines"
