"""The questions of a benchmark, found in a folder of data and looked through before the first is asked.

Texts are read at once, pictures when a question is asked. Whatever is wrong with the data is one sentence that names
the file, the row and the column.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b, md5
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from PIL import Image

from mutua.data.readers.arrow_file import import_pyarrow
from mutua.data.readers.dataset_rows import parquet_table, refuse_unreadable
from mutua.data.sample import ImagePart, Sample, SampleError
from mutua.evaluation.benchmark import Benchmark, Judged, Layout, Protocol, Question, Row, Verdict
from mutua.evaluation.multiple_choice import listed
from mutua.images import ImageError, open_image
from mutua.shortened import shortened

if TYPE_CHECKING:
    import pyarrow as pa

# What pandas, with which VLMEvalKit reads its files, takes for an empty cell: an option "None" is none there, so here.
_EMPTY = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null"),
)
_MAY_BE_EMPTY = (*ascii_uppercase, "choices")  # options: of them, a free question has none
_CHUNK = 1 << 20
_LONGEST_REFERENCE = 64  # characters: VLMEvalKit takes a shorter picture for the index of the row that holds it


@dataclass(frozen=True)
class Questions:
    """Questions, and a function that opens the pictures of the n-th.

    Attributes:
        layout: "parquet", "tsv" or "samples".
        folder: of the data; of samples, none is read.
        files: where they were found, as seen from that folder.
        version: of the files, by their names and sizes; empty for samples.
        digest: of ids, prompts, answers and choices: two sets of the same digest ask the same.
    """

    benchmark: Benchmark
    layout: str
    folder: Path
    files: tuple[str, ...]
    version: str
    all: tuple[Question, ...]
    pictures: Callable[[int], list[Image.Image]]

    @property
    def protocol(self) -> Protocol:
        layout = self.benchmark.layouts.get(self.layout)  # type: ignore[call-overload]
        return layout.protocol if layout is not None and layout.protocol is not None else self.benchmark.protocol

    @property
    def digest(self) -> str:
        texts = [[q.id, q.prompt, q.answer, dict(q.choices), q.group, q.category, dict(q.more)] for q in self.all]
        return blake2b(json.dumps(texts, sort_keys=True).encode(), digest_size=8).hexdigest()

    @cached_property
    def is_whole(self) -> bool | None:
        """Whether it has as many questions as are published, or is the file of VLMEvalKit of March 2025, which in some
        sets has fewer; None for another file of that layout: not known."""
        if self.layout != "tsv" or not self.benchmark.md5:
            return len(self.all) == self.benchmark.size
        return _md5(self.folder / self.files[0]) == self.benchmark.md5 or None

    def groups(self) -> list[list[int]]:
        """The places of the questions that count together, in order of first appearance."""
        found: dict[str, list[int]] = {}
        for place, question in enumerate(self.all):
            found.setdefault(question.group or question.id, []).append(place)
        return list(found.values())


def _md5(path: Path) -> str:
    digest = md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def find_files(benchmark: Benchmark, data: Path) -> tuple[str, list[Path]] | None:
    """The layout and the files of a benchmark in a folder; None where there are none.

    Raises:
        SampleError: a folder cannot be read: what is in it is not missing.
    """
    for _ in os.walk(data / benchmark.name, onerror=refuse_unreadable):
        pass
    for name, layout in benchmark.layouts.items():
        for folder in (data / benchmark.name, data) if name == "tsv" else (data / benchmark.name,):
            for pattern in layout.files:
                if files := sorted(path for path in folder.glob(pattern) if path.is_file()):
                    return name, files
    return None


def places(benchmark: Benchmark) -> str:
    """Where `find_files` looks first, in each layout."""
    first = {name: layout.files[0] for name, layout in benchmark.layouts.items()}
    return f"{benchmark.name}/{first['parquet']} or {first['tsv']}"


def open_questions(benchmark: Benchmark, data: Path | None) -> Questions:
    """The questions of a benchmark.

    Raises:
        SampleError: they are not there, a column is missing, a row is wrong, lacks its picture, or comes twice.
        ImportError: an extra is missing.
    """
    if benchmark.samples is not None:
        opened = _of_samples(benchmark, benchmark.samples())
    else:
        found = find_files(benchmark, expect_folder(data))
        if found is None:
            raise SampleError(
                f"{benchmark.name}: nothing in {data}: {places(benchmark)} is looked for there (where it is published: "
                "docs/evaluation.md)."
            )
        opened = _of_table(benchmark, expect_folder(data), *found)
    _check(opened)
    return opened


def expect_folder(data: Path | None) -> Path:
    """The folder of all data; SampleError where there is none, or it cannot be read."""
    if data is None:
        raise SampleError("the benchmarks are read from a folder: name it with --data (see `mutua eval check --help`).")
    if not data.is_dir():
        raise SampleError(f"--data {data}: there is no such folder.")
    if not os.access(data, os.R_OK | os.X_OK):
        raise SampleError(f"--data {data}: cannot be read: see to it that you may.")
    return data


def _of_samples(benchmark: Benchmark, samples: Sequence[Sample]) -> Questions:
    def question(sample: Sample) -> Question:
        return Question(sample.id, sample.question, sample.question, sample.answer, category=sample.family)

    def pictures(place: int) -> list[Image.Image]:
        parts = (part for message in samples[place].messages for part in message.content)
        return [open_image(part.image) for part in parts if isinstance(part, ImagePart)]

    texts = tuple(question(samples[place]) for place in range(len(samples)))
    return Questions(benchmark, "samples", Path(), (), "", texts, pictures)


def _of_table(benchmark: Benchmark, data: Path, name: Any, files: Sequence[Path]) -> Questions:
    layout = benchmark.layouts[name]
    shown = f"{benchmark.name}: {files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}"
    tables = [_parquet(shown, files)] if name == "parquet" else _tsv(shown, files)
    table = _joined(tables)
    missing = [column for column in (*layout.columns, layout.pictures[0]) if column not in table.column_names]
    if missing:
        raise SampleError(
            f"{shown}: no column {', '.join(map(repr, missing))}; it has {', '.join(table.column_names)}. That is not "
            "the file that is published: fetch it again, or rename the column."
        )
    texts: list[Row] = table.select([c for c in table.column_names if c not in layout.pictures]).to_pylist()
    columns = [column for column in layout.pictures if column in table.column_names]
    filled = {column: _filled(table[column]) for column in columns}
    questions: list[Question] = []
    rows: list[int] = []
    for number, row in enumerate(texts):
        question = _question(layout, row, number, shown)
        if question is None:
            continue
        needed = layout.pictures[: question.places] if len(layout.pictures) > 1 else layout.pictures
        for column in needed:
            if column not in filled or not filled[column][number]:
                raise SampleError(
                    f"{shown}: row {number} ({question.id}) has no picture in its column {column!r}: fetch the file "
                    "again."
                )
        questions.append(question)
        rows.append(number)
    file_of = [nth for nth, one in enumerate(tables) for _ in range(len(one))]
    by_index = {}  # a reference is to a row of its own file
    if name == "tsv":
        by_index = {(file_of[number], str(row["index"])): number for number, row in enumerate(texts)}

    def pictures(place: int) -> list[Image.Image]:
        row, question = rows[place], questions[place]
        try:
            held = [held for column in columns for held in _held(table[column][row].as_py())]
            if name == "tsv":
                held = [
                    _decoded(one, table[columns[0]], lambda index: by_index.get((file_of[row], index))) for one in held
                ]
            if len(held) < question.places:
                raise ImageError(f"it asks for picture {question.places}, and there are {len(held)}.")
            return [open_image(one) for one in held]
        except ImageError as error:
            raise SampleError(f"{shown}: row {row} ({question.id}): {error}") from error

    places = tuple(str(file.relative_to(data)) for file in files)
    sizes = [(place, file.stat().st_size) for place, file in zip(places, files, strict=True)]
    version = blake2b(json.dumps(sizes).encode(), digest_size=8).hexdigest()
    return Questions(benchmark, name, data, places, version, tuple(questions), pictures)


def _question(layout: Layout, row: Row, number: int, shown: str) -> Question | None:
    for column in layout.columns:
        if row[column] in (None, "") and column not in _MAY_BE_EMPTY:
            raise SampleError(
                f"{shown}: row {number} has an empty cell in its column {column!r}: fetch the file again."
            )
    try:
        question = layout.question(row, number)
        if question is not None:
            _expect_texts(question, ascii_uppercase if "A" in row else "")
        return question
    except (ValueError, SyntaxError, LookupError, TypeError, AttributeError) as error:
        told = {column: row[column] for column in layout.columns}
        raise SampleError(f"{shown}: row {number} is not as published ({error}): {told!s:.300}") from error


def _expect_texts(question: Question, letters: str) -> None:
    """Raises TypeError or ValueError where something is no text, or no reply could be right.

    Args:
        letters: of options that may be there, though their columns are empty.
    """
    for name in ("id", "prompt", "text", "answer", "group", "category"):
        if not isinstance(getattr(question, name), str):
            raise TypeError(f"its {name} is no text, but {getattr(question, name)!r}")
    if question.choices and question.answer not in (*question.choices, *letters):
        raise ValueError(f"its answer {question.answer!r} is none of its options {', '.join(question.choices)}")


def _check(opened: Questions) -> None:
    """Raises SampleError where there is nothing, an id comes twice, or the figures could not be counted in the end."""
    name = opened.benchmark.name
    if not opened.all:
        raise SampleError(f"{name}: no question in {', '.join(opened.files) or 'it'}.")
    seen: dict[str, int] = {}
    for place, question in enumerate(opened.all):
        if question.id in seen:
            raise SampleError(
                f"{name}: question {question.id!r} comes twice, as number {seen[question.id]} and {place}: remove one, "
                f"or the files that hold it a second time ({', '.join(opened.files)})."
            )
        seen[question.id] = place
    if opened.benchmark.all_must_hit:
        _expect_rotations(opened)
    # As if all had been answered right: what is wrong with categories, pairs and rotations is told now.
    right = Verdict("", 1.0, {"lenient": 1.0, "reference": 1.0})
    groups = [[Judged(opened.all[place], right) for place in group] for group in opened.groups()]
    try:
        opened.benchmark.figures(groups)
    except ValueError as error:
        raise SampleError(f"{name}: {', '.join(opened.files)}: {error}") from error


def _expect_rotations(opened: Questions) -> None:
    """Raises SampleError where a question is not asked once for each of its options: with fewer it is easier."""
    for group in opened.groups():
        question = opened.all[group[0]]
        if len(group) != len(question.choices):
            raise SampleError(
                f"{opened.benchmark.name}: question {question.group} has {len(question.choices)} options and is asked "
                f"{len(group)} times in {', '.join(opened.files)}, not once for each: fetch the whole file again."
            )


def _parquet(shown: str, files: Sequence[Path]) -> pa.Table:
    return parquet_table(Path(shown), files).with_format("arrow")[:]


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    if len(tables) == 1:
        return tables[0]
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="default")


def _tsv(shown: str, files: Sequence[Path]) -> list[pa.Table]:
    """A table a file, of text columns alone. A cell may hold line breaks, and a picture of any size."""
    import_pyarrow()
    import pyarrow as pa
    from pyarrow import csv

    tables = []
    for file in files:
        try:
            with file.open(encoding="utf-8", newline="") as opened:
                names = opened.readline().rstrip("\r\n").split("\t")
            table = csv.read_csv(
                file,
                csv.ReadOptions(block_size=min(max(file.stat().st_size, 1), 2**31 - 1), use_threads=False),
                csv.ParseOptions(delimiter="\t", newlines_in_values=True),
                csv.ConvertOptions(
                    column_types={name.strip('"'): pa.large_string() for name in names},
                    null_values=_EMPTY,
                    strings_can_be_null=True,
                ),
            )
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise SampleError(f"{shown}: cannot be read as a TSV file: {error!s:.300}") from error
        tables.append(table)
    return tables


def _filled(column: Any) -> list[bool]:
    """In which rows there is a picture. `datasets` keeps one that is not there as a struct of two empty cells, too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    filled = pc.is_valid(column)
    if pa.types.is_struct(column.type):
        fields = [pc.is_valid(pc.struct_field(column, field.name)) for field in column.type]
        for field in fields[1:]:
            fields[0] = pc.or_(fields[0], field)
        filled = pc.and_(filled, fields[0])
    return filled.to_pylist()  # type: ignore[no-any-return]


def _held(cell: Any) -> list[Any]:
    """The pictures of a cell: one, or a list, which VLMEvalKit writes as Python does."""
    if cell is None or cell == {"bytes": None, "path": None}:
        return []
    if isinstance(cell, str) and cell.startswith("["):
        return _several(cell)
    return cell if isinstance(cell, list) else [cell]


def _several(cell: str) -> list[str]:
    try:
        held = listed(cell)
        if all(isinstance(one, str) for one in held):
            return held
    except (ValueError, TypeError, MemoryError, RecursionError):  # what Python's parser has for texts that are no list
        pass
    raise ImageError(
        f"its pictures are no list of texts such as ['iVBO...', 'iVBO...'] (got {shortened(cell)!r}): fetch the "
        "file again."
    )


def _decoded(cell: str, column: Any, row_of: Callable[[str], int | None]) -> bytes:
    """A picture of VLMEvalKit's: base64, or the index of the row that holds it."""
    if len(cell) <= _LONGEST_REFERENCE:
        row = row_of(cell)
        if row is None:
            raise ImageError(f"its picture is that of row {cell!r}, which is not there.")
        held = _held(column[row].as_py())
        if len(held) != 1:
            raise ImageError(f"its picture is that of row {cell!r}, which has {len(held)} pictures, not one.")
        cell = held[0]
    try:
        return base64.b64decode(cell, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"its picture is no valid base64 ({error}).") from None
