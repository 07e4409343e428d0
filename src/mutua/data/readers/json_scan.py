"""A JSON file of any size, value by value: it is read a chunk at a time, and nothing of it is kept."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mutua.data.sample import SampleError

CHUNK = 1 << 22  # bytes
BOM = b"\xef\xbb\xbf"
_SPACE = " \t\r\n"
_LONGEST_LITERAL = 16  # characters; -Infinity, or an escape of four digits, cut anywhere


class JsonScan:
    """Goes through a file once.

    Every byte is taken for a character (latin-1), so that places among characters are places among bytes. What is not
    ASCII stands inside strings in JSON, and does not change where a value ends.

    Attributes:
        content: CRC-32 of what has been read; of the file where its end was expected.
        count: the items of the list, or keys of the object, before the place, for errors.
        start: where the last value began, in bytes.
        end: where it ended.

    Raises:
        SampleError: the file is no JSON.
    """

    def __init__(self, path: Path, file: BinaryIO, decoder: json.JSONDecoder) -> None:
        self.path, self._file, self._decoder = path, file, decoder
        self.content = self.count = self.start = self.end = 0
        # What is looked at, the bytes before it, the place in it, and whether the rest of the file is in it.
        self._text, self._before, self._at, self._is_whole = "", 0, 0, False
        self._more()
        if self._text.startswith(BOM.decode("latin-1")):
            self._at = len(BOM)

    def peek(self) -> str:
        """The next letter that is no space; empty at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or self._is_whole:
                return self._text[self._at : self._at + 1]
            self._more()

    def value(self) -> Any:
        """The next value, parsed by the decoder. Text that is not ASCII is in latin-1: `text` gives it."""
        self.peek()
        while True:
            try:
                found, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                problem = str(getattr(error, "msg", error))
                if _is_surely_wrong(error, self._text):
                    self.refuse(problem)
                if self._is_whole:
                    self.refuse(f"the file is cut off or damaged ({problem})")
                self._more()
                continue
            if end == len(self._text) and not self._is_whole:  # a number may go on
                self._more()
                continue
            self._last, self._at = (self._at, end), end
            self.start, self.end = (self._before + place for place in self._last)
            return found

    def text(self) -> str:
        """The last value as the file has it."""
        raw = self._text[slice(*self._last)]
        if raw.isascii():
            return raw
        try:
            return raw.encode("latin-1").decode()
        except UnicodeDecodeError as error:
            self.refuse(f"is not UTF-8 ({error.reason})")

    def items(self) -> Iterator[Any]:
        """The items of the list that is next, each as `value`."""
        self.count = 0
        self._take("[")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            yield self.value()
            self.count += 1
            if self.peek() == "]":
                self._at += 1
                return
            self._take(",")

    def names(self) -> Iterator[str]:
        """The keys of the object that is next. Whoever asks for another has taken the value of the last."""
        count = 0
        self._take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            self.count = count
            if self.peek() != '"':
                self.refuse("a key is missing")
            self.value()
            key = json.loads(self.text())
            self._take(":")
            yield key
            count += 1
            if self.peek() == "}":
                self._at += 1
                return
            self._take(",")

    def skip(self) -> None:
        """Passes over the value that is next; of a list it needs no more memory than for an item."""
        if self.peek() == "[":
            for _ in self.items():
                pass
        else:
            self.value()

    def expect_end(self, of: str) -> None:
        if self.peek():
            self.refuse(f"something follows the {of}")

    def refuse(self, problem: str) -> NoReturn:
        raise SampleError(
            f"{self.path}: not valid JSON at byte {self._before + self._at}, in or before item {self.count} (counted "
            f"from 0): {problem}. Fetch or write the file anew"
        )

    def _take(self, letter: str) -> None:
        if (found := self.peek()) != letter:
            self.refuse(f"a {letter!r} is missing" if found else "the file is cut off")
        self._at += 1

    def _more(self) -> None:
        # At least as much again: a value that is longer than a chunk is tried a few times only.
        chunk = self._file.read(max(CHUNK, len(self._text) - self._at))
        self.content = zlib.crc32(chunk, self.content)
        self._text = self._text[self._at :] + chunk.decode("latin-1")
        self._before, self._at, self._is_whole = self._before + self._at, 0, not chunk


def _is_surely_wrong(error: Exception, text: str) -> bool:
    """Whether more of the file cannot help: what is wrong lies before the place where the text was cut."""
    if not isinstance(error, json.JSONDecodeError):
        return True
    return not error.msg.startswith("Unterminated string") and error.pos < len(text) - _LONGEST_LITERAL
