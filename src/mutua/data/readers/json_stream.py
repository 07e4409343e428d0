"""The records of a JSON file that are not its own items, one after the other: of lists under a key, and of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from mutua.data.readers.json_scan import JsonScan
from mutua.data.sample import SampleError


class JsonObject(dict[str, Any]):
    """An object of a file.

    Attributes:
        twice: a key that is there twice: JSON lets it, and of its values only the last would count.
    """

    twice: str | None = None

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        if len(self) < len(pairs):
            keys = [key for key, _ in pairs]
            self.twice = next(key for key in keys if keys.count(key) > 1)


_DECODER = json.JSONDecoder(object_pairs_hook=JsonObject)


def items(path: Path, key: str = "") -> Iterator[Any]:
    """The items of a list: under this key of the file's object, or of the file itself.

    Raises:
        SampleError: the file is damaged, or no such list with an item is in it.
    """
    count = 0
    with _opened(path) as scan:
        if scan.peek() == ("{" if key else "["):
            for _ in _keys(scan, key) if key else (None,):
                if scan.peek() != "[":
                    break
                for found in scan.items():
                    yield _decoded(scan, found)
                    count += 1
            else:
                scan.expect_end("object" if key else "list")
    if not count:
        _refuse(path, f"no list {key!r} with items" if key else "no list with items")


def entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values of the file's object. SampleError as `items`."""
    count = 0
    with _opened(path) as scan:
        if scan.peek() == "{":
            for key in scan.names():
                yield key, _decoded(scan, scan.value())
                count += 1
            scan.expect_end("object")
    if not count:
        _refuse(path, "no object with keys")


def value(path: Path, key: str) -> Any:
    """The value under this key of the file's object. SampleError as `items`."""
    with _opened(path) as scan:
        for _ in _keys(scan, key):
            return _decoded(scan, scan.value())
    return _refuse(path, f"no key {key!r}")


@contextmanager
def _opened(path: Path) -> Iterator[JsonScan]:
    with path.open("rb") as file:
        yield JsonScan(path, file, _DECODER)


def _keys(scan: JsonScan, wanted: str) -> Iterator[str]:
    """The key of the object, each time that it comes; all other values are passed over."""
    came = False
    if scan.peek() != "{":
        return
    for key in scan.names():
        if key != wanted:
            scan.skip()
            continue
        if came:
            scan.refuse(f"the key {key!r} is there twice")
        came = True
        yield key


def _decoded(scan: JsonScan, found: Any) -> Any:
    """The last value, where its text is not ASCII anew from UTF-8."""
    text = scan.text()
    return found if text.isascii() else _DECODER.decode(text)


def _refuse(path: Path, absent: str) -> NoReturn:
    raise SampleError(f"{path}: has {absent}: it is another file than it is taken for, or an empty one")
