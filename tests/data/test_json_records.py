"""The records of JSON files, found a chunk at a time: every item of a list and every line, whatever they hold."""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from mutua.data.readers import json_scan
from mutua.data.readers.json_records import JsonRecords
from mutua.data.sample import SampleError

ROWS: list[Any] = [
    *({"id": nth, "text": f'zwölf "[{{\\" 雪 {"x" * nth}', "inside": [[], {"a": None}]} for nth in range(60)),
    -1.5e7,
    "a ] text",
    [1, [2]],
    True,
    {},
]


@pytest.mark.parametrize("chunk", [8, 64, 1 << 20])
@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}])
@pytest.mark.parametrize("before", ["", "\ufeff", " \n\t"])
def test_items_of_a_list(tmp_path: Path, monkeypatch, chunk: int, layout: dict[str, Any], before: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(before + json.dumps(ROWS, **layout) + "\n", encoding="utf-8")
    monkeypatch.setattr(json_scan, "CHUNK", chunk)
    records = pickle.loads(pickle.dumps(JsonRecords(path)))
    assert [records[index] for index in range(len(records))] == ROWS
    assert records.place(3) == f"{path}[3]"
    assert records.content == zlib.crc32(path.read_bytes())


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes("\n".join(["", *(json.dumps(row) for row in ROWS), " "]).encode())
    records = pickle.loads(pickle.dumps(JsonRecords(path, "lines")))
    assert [records[index] for index in range(len(records))] == ROWS
    assert records.place(0) == f"{path}:2"
    assert records.content == zlib.crc32(path.read_bytes())


def test_lines_behind_a_mark_of_byte_order(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"a": 1}\n{"a": 2}\n', encoding="utf-8-sig")
    assert [JsonRecords(tmp_path / "data.jsonl")[nth]["a"] for nth in range(2)] == [1, 2]


def test_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(" [ ] ")
    assert len(JsonRecords(tmp_path / "data.json")) == 0


@pytest.mark.parametrize("chunk", [8, 1 << 20])
@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("[", "byte 1, in or before item 0", "cut off"),
        ('[{"a": 1}', "byte 9, in or before item 1", "cut off"),
        ('[{"a": 1}, ', "byte 11, in or before item 1", "cut off"),
        ('[{"a": 1}, {"b": "c', "byte 11, in or before item 1", "cut off or damaged (Unterminated string"),
        ('[{"a": 1},]', "byte 10, in or before item 1", "damaged (Expecting value)"),
        ("[{} {}]", "byte 4, in or before item 1", "a ',' is missing"),
        (f"[{'9' * 5000}]", "byte 1, in or before item 0", "integer string conversion"),
        ("[{}] x", "byte 5, in or before item 1", "something follows the list"),
        ('[{"a": oops, "bcdefghijklmnopqrstuvw": 1}]', "byte 1, in or before item 0", "Expecting value"),
    ],
)
def test_damaged_lists(tmp_path: Path, monkeypatch, chunk: int, text: str, place: str, problem: str) -> None:
    (tmp_path / "data.json").write_text(text)
    monkeypatch.setattr(json_scan, "CHUNK", chunk)
    with pytest.raises(SampleError) as error:
        JsonRecords(tmp_path / "data.json")
    assert f"not valid JSON at {place} (counted from 0)" in str(error.value)
    assert problem in str(error.value)


def test_what_is_wrong_early_is_found_without_reading_on(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"a": oops},' + " " * 10_000)
    monkeypatch.setattr(json_scan, "CHUNK", 100)
    read: list[int] = []
    monkeypatch.setattr(json_scan.zlib, "crc32", lambda chunk, _: read.append(len(chunk)) or 0)
    with pytest.raises(SampleError, match="Expecting value"):
        JsonRecords(path)
    assert sum(read) == 100
