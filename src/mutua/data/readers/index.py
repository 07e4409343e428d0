"""The records of published files in a table on the disk, so that their JSON is parsed once, and not kept in memory.

The table holds of every record what a sample takes of it, as it was found: whether that is right shows where the sample
is read, with its place.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutua.data.readers.arrow_file import ROWS, ArrowFile, Batches, cache_folder, cached, import_pyarrow
from mutua.data.sample import SampleError

if TYPE_CHECKING:
    import pyarrow as pa

_VERSION = 1  # of the columns
_SECONDS_BEFORE_A_LINE, _SECONDS_BETWEEN_LINES = 5, 15


@dataclass(frozen=True)
class Row:
    """A record on its way into the table.

    Attributes:
        place: of the record, as it follows the file's name in an error.
        record: what a sample takes of it.
        picture: the records of a picture have the same; None where there is none, or it is not known.
        problem: why the record is none.
        file: which of the files it is in.
    """

    place: str
    record: dict[str, Any] | None = None
    picture: str | None = None
    problem: str | None = None
    file: int = 0


def row_of(place: str, given: Any, keys: Collection[str], picture: str = "") -> Row:
    """What a file holds in this place, as a row with these keys.

    Args:
        picture: the key whose value names the picture; empty where no questions share one.
    """
    if not isinstance(given, dict):
        return Row(place, problem=f"a record is one JSON object, not {type(given).__name__}")
    if (key := getattr(given, "twice", None)) is not None:
        return Row(place, problem=f"the key {key!r} is there twice: remove one")
    record = {key: given[key] for key in keys if key in given}
    return Row(place, record, str(given[picture]) if picture in given else None)


def open_index(kind: str, key: Any, files: Sequence[Path], rows: Callable[[], Iterable[Row]]) -> ArrowFile:
    """The rows of files, from the cache where nothing of them has changed.

    Args:
        kind: the name of the format.
        key: what decides the rows beside the files, as JSON takes it.
        files: by paths, sizes and times of their last change.
        rows: gives the rows, where they are not in the cache.

    Raises:
        SampleError: the files cannot be read, or hold no record.
    """
    looks = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return cached(kind, [_VERSION, key, looks], _schema, lambda: _batches(files, rows()))


def _schema() -> pa.Schema:
    arrow = import_pyarrow()
    text = arrow.string()
    return arrow.schema([("file", arrow.uint32()), *((name, text) for name in _TEXTS)])


_TEXTS = ("place", "record", "picture", "problem")


def _batches(files: Sequence[Path], rows: Iterable[Row]) -> Batches:
    arrow, content, count = import_pyarrow(), 0, 0
    rows = _with_progress_lines(files, iter(rows))
    while some := list(islice(rows, ROWS)):
        records = [None if row.record is None else json.dumps(row.record) for row in some]
        content = zlib.crc32("\n".join(record or "" for record in records).encode(), content)
        count += len(some)
        columns = [[row.file for row in some], [_spelled(row.place) for row in some], records]
        columns += [[_spelled(row.picture) for row in some], [_spelled(row.problem) for row in some]]
        yield arrow.record_batch(columns, schema=_schema()), {"content": content}
    if not count:
        raise SampleError(f"{files[0]}: holds no record")


def _spelled(text: str | None) -> str | None:
    """The text; half a letter, which Arrow does not take, as its number. The record tells where it is read."""
    return None if text is None else text.encode(errors="backslashreplace").decode()


def _with_progress_lines(files: Sequence[Path], rows: Iterator[Row]) -> Iterator[Row]:
    """The rows. Where it takes long, says now and then on the standard error how many there are."""
    name = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
    due = time.monotonic() + _SECONDS_BEFORE_A_LINE
    for number, row in enumerate(rows, start=1):
        if number % 1024 == 0 and time.monotonic() > due:
            due = time.monotonic() + _SECONDS_BETWEEN_LINES
            print(f"{name}: {number:,} records indexed, once, in {cache_folder()}", file=sys.stderr, flush=True)
        yield row


def conversations(index: ArrowFile, turns: int) -> ArrowFile:
    """Which rows of an index make up a conversation, a list each (`rows`): up to `turns` of one picture.

    Every row is in one conversation. Conversations and the rows in them are in the order of the files, pictures by
    their first row.
    """
    arrow = import_pyarrow()
    schema = arrow.schema([("rows", arrow.list_(arrow.int64()))])
    return cached("turns", [_VERSION, index.path.name, turns], lambda: schema, lambda: _lists(index, turns, schema))


def _lists(index: ArrowFile, turns: int, schema: pa.Schema) -> Batches:
    import numpy as np

    arrow = import_pyarrow()
    picture = index.columns("picture").column(0).combine_chunks().dictionary_encode()
    codes = picture.indices.to_numpy(zero_copy_only=False)  # in the order of first rows; NaN: a row by itself
    alone = np.isnan(codes) if codes.dtype.kind == "f" else np.zeros(len(codes), bool)
    codes = np.where(alone, 0, codes).astype(np.int64)
    codes[alone] = len(picture.dictionary) + np.arange(alone.sum())
    rows = np.argsort(codes, kind="stable")
    is_first = np.diff(codes[rows], prepend=-1) != 0
    turn = np.arange(len(rows)) - np.maximum.accumulate(np.where(is_first, np.arange(len(rows)), 0))
    bounds = np.append(np.flatnonzero(turn % turns == 0), len(rows))
    for start in range(0, len(bounds) - 1, ROWS):
        some = bounds[start : start + ROWS + 1]
        lists = arrow.ListArray.from_arrays(
            arrow.array(some - some[0], arrow.int32()), arrow.array(rows[some[0] : some[-1]], arrow.int64())
        )
        yield arrow.record_batch([lists], schema=schema), {}
