"""The records of JSON files that are not their items: lists under a key, objects; read a chunk at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mutua.data.readers import json_scan
from mutua.data.readers.json_stream import entries, items, value
from mutua.data.sample import SampleError

ROWS = [{"id": nth, "text": f'zwölf "[{{\\" 雪 {"x" * nth}', "inside": [[], {"a": None}]} for nth in range(40)]


@pytest.mark.parametrize("chunk", [8, 64, 1 << 20])
@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"ensure_ascii": False}])
def test_lists_and_values_under_a_key(tmp_path: Path, monkeypatch, chunk: int, layout: dict[str, Any]) -> None:
    path = tmp_path / "data.json"
    content = {"info": {"rows": [1]}, "other": [{"rows": 1}, [2]], "größe": 7.5, "rows": ROWS, "last": "zwölf"}
    path.write_text(json.dumps(content, **layout), encoding="utf-8")
    monkeypatch.setattr(json_scan, "CHUNK", chunk)
    assert list(items(path, "rows")) == ROWS
    assert list(items(path, "other")) == content["other"]
    assert [value(path, key) for key in ("größe", "last", "info")] == [7.5, "zwölf", {"rows": [1]}]


@pytest.mark.parametrize("chunk", [8, 1 << 20])
def test_entries_and_items(tmp_path: Path, monkeypatch, chunk: int) -> None:
    path = tmp_path / "data.json"
    content = {f"ключ {nth}": row for nth, row in enumerate(ROWS)}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    monkeypatch.setattr(json_scan, "CHUNK", chunk)
    assert dict(entries(path)) == content
    path.write_text(json.dumps(ROWS))
    assert list(items(path)) == ROWS


def test_a_key_that_is_there_twice_is_told(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"a": {"b": 1, "b": 2}}, {"a": 1, "a": 1}]')
    first, second = items(path)
    assert (first.twice, first["a"].twice, second.twice) == (None, "b", "a")
    path.write_text('{"rows": [1], "rows": [2]}')
    with pytest.raises(SampleError, match="the key 'rows' is there twice"):
        list(items(path, "rows"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no list 'rows' with items"),
        ("{}", "has no list 'rows' with items"),
        ('{"rows": []}', "has no list 'rows' with items"),
        ('{"rows": {"a": 1}}', "has no list 'rows' with items"),
        ('[{"rows": [1]}]', "has no list 'rows' with items"),
        ('{"rows": [1]', "the file is cut off"),
        ('{"rows": [1], "more": ', "cut off or damaged"),
        ('{"rows": [1]} {', "something follows the object"),
        ('{"rows" [1]}', "a ':' is missing"),
        ("{rows: [1]}", "a key is missing"),
        ('{"rows": [1],}', "a key is missing"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(SampleError, match=problem):
        list(items(path, "rows"))


def test_what_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes('{"a": "zwölf"}'.encode("latin-1"))
    with pytest.raises(SampleError, match="is not UTF-8"):
        list(entries(path))
    with pytest.raises(SampleError, match="has no key 'b'"):
        value(path, "b")
