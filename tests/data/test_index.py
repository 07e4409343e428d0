"""The index of published files on the disk: its rows, its conversations, and who writes it when."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_sets import SETS

from mutua.data.readers import arrow_file, index
from mutua.data.readers.arrow_file import cache_folder
from mutua.data.readers.index import Row, conversations, open_index
from mutua.data.readers.instruction.visual_genome import VisualGenome
from mutua.data.sample import SampleError

pytest.importorskip("pyarrow")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUTUA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (arrow_file, index):
        monkeypatch.setattr(module, "ROWS", 4)


def rows_of(pictures: list[str | None]) -> list[Row]:
    return [Row(f"[{nth}]", {"id": nth}, picture) for nth, picture in enumerate(pictures)]


def a_file(folder: Path, content: str = "x") -> Path:
    path = folder / "data.json"
    path.write_text(content)
    return path


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 9])
def test_rows_of_several_batches(tmp_path: Path, cache: Path, small_batches: None, size: int) -> None:
    rows = [*rows_of(["a"] * (size - 1)), Row("[last]", problem="is wrong", file=1)]
    opened = pickle.loads(pickle.dumps(open_index("test", [size], [a_file(tmp_path)], lambda: rows)))
    assert len(opened) == size
    assert [opened[nth]["place"] for nth in range(size)] == [row.place for row in rows]
    assert [opened[nth]["record"] for nth in range(size - 1)] == [f'{{"id": {nth}}}' for nth in range(size - 1)]
    assert opened[size - 1] == {
        "file": 1,
        "place": "[last]",
        "record": None,
        "picture": None,
        "problem": "is wrong",
    }


@settings(deadline=None, max_examples=40)
@given(pictures=st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=30), turns=st.integers(2, 5))
def test_every_row_is_in_one_conversation(tmp_path_factory, pictures: list[str | None], turns: int) -> None:
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUTUA_CACHE", str(folder))
        for module in (arrow_file, index):
            patch.setattr(module, "ROWS", 4)
        opened = conversations(open_index("test", 0, [a_file(folder)], lambda: rows_of(pictures)), turns)
        lists = [opened[nth]["rows"] for nth in range(len(opened))]
    of_picture = defaultdict(list)
    for nth, picture in enumerate(pictures):
        of_picture[nth if picture is None else picture].append(nth)
    # The same in the plainest words: pictures by their first row, none for itself, cut into pieces.
    expected = [rows[start : start + turns] for rows in of_picture.values() for start in range(0, len(rows), turns)]
    assert sorted(lists) == sorted(expected)
    assert [one for one in lists if pictures[one[0]] is not None] == [
        one for one in expected if pictures[one[0]] is not None
    ]


def test_half_a_letter_does_not_lose_the_other_rows(tmp_path: Path, cache: Path) -> None:
    rows = [*rows_of(["a"]), Row(": \ud800", {"id": "\udce9"}, "\ud800"), Row("[2]", problem="no '\ud800'")]
    opened = open_index("test", 0, [a_file(tmp_path)], lambda: rows)
    assert [opened[nth]["place"] for nth in range(3)] == ["[0]", ": \\ud800", "[2]"]
    assert (opened[1]["record"], opened[1]["picture"]) == ('{"id": "\\udce9"}', "\\ud800")
    assert opened[2]["problem"] == "no '\\ud800'"


def test_what_changes_the_content_gives_another_index(tmp_path: Path, cache: Path) -> None:
    path, calls = a_file(tmp_path), []

    def rows() -> Iterator[Row]:
        calls.append(1)
        yield Row("[0]", {"id": len(calls)})

    def record(key: object) -> str:
        return open_index("test", key, [path], rows)[0]["record"]

    assert [record(1), record(1), record(2), record(1)] == ['{"id": 1}', '{"id": 1}', '{"id": 2}', '{"id": 1}']
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert record(1) == '{"id": 3}'
    path.write_text("xy")
    assert record(1) == '{"id": 4}'
    assert not list(cache.rglob("*partial*"))


def test_what_fails_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    def rows() -> Iterator[Row]:
        yield Row("[0]", {})
        raise SampleError("no more")

    with pytest.raises(SampleError, match="no more"):
        open_index("test", 0, [a_file(tmp_path)], rows)
    with pytest.raises(SampleError, match=r"data\.json: holds no record"):
        open_index("test", 0, [a_file(tmp_path)], lambda: [])
    assert not list(cache.rglob("*.arrow"))


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUTUA_CACHE", str(a_file(tmp_path)))
    with pytest.raises(SampleError, match=r"cannot be made or written .*: MUTUA_CACHE sets the folder of such files"):
        open_index("test", 0, [tmp_path / "data.json"], lambda: rows_of(["a"]))


def test_a_damaged_index(tmp_path: Path, cache: Path) -> None:
    path = open_index("test", 0, [a_file(tmp_path)], lambda: rows_of(["a"])).path
    path.write_bytes(b"ARROW1")
    with pytest.raises(SampleError, match="is damaged: remove it, and it is made anew"):
        open_index("test", 0, [tmp_path / "data.json"], lambda: rows_of(["a"]))


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUTUA_CACHE", "~/there")
    assert cache_folder() == Path.home() / "there"
    monkeypatch.setenv("MUTUA_CACHE", "")
    assert cache_folder() == Path.home() / ".cache/mutua"


def test_what_takes_long_says_so_and_what_is_quick_does_not(tmp_path: Path, cache: Path, monkeypatch, capsys) -> None:
    many = rows_of(["a"] * 3000)
    open_index("test", 0, [a_file(tmp_path)], lambda: many)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(index, "_SECONDS_BEFORE_A_LINE", -1)
    open_index("test", 1, [a_file(tmp_path)], lambda: many)
    assert capsys.readouterr().err == f"data.json: 1,024 records indexed, once, in {cache}\n"


def test_processes_that_start_at_once_share_one_index(tmp_path: Path, cache: Path) -> None:
    SETS["gqa"](tmp_path / "gqa")
    code = (
        "import sys, time\n"
        "from mutua.data.readers.instruction.gqa import GQA\n"
        "rows = GQA.rows\n"
        "def slow(self):\n"
        "    print('wrote', flush=True)\n"
        "    time.sleep(1)\n"
        "    return rows(self)\n"
        "GQA.rows = slow\n"
        "print(len(GQA(sys.argv[1], turns=2)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "gqa")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert sorted(said) == [["2"], ["2"], ["wrote", "2"]]
    assert len(list(cache.rglob("*.arrow"))) == 2


@pytest.mark.slow
def test_a_million_regions_open_again_at_once(tmp_path: Path, cache: Path) -> None:
    """Each time in a process of its own, which says what time and MiB of memory that took."""
    regions = 1_000_000
    with (tmp_path / "region_descriptions.json").open("w") as file, (tmp_path / "image_data.json").open("w") as data:
        for nth in range(regions // 40):
            of_picture = ", ".join(
                f'{{"region_id": {40 * nth + one}, "image_id": {nth}, "x": 1, "y": 2, "width": 30, "height": 20, '
                f'"phrase": "the clock number {one} is green in colour"}}'
                for one in range(40)
            )
            file.write(f'{"," if nth else "["}{{"id": {nth}, "regions": [{of_picture}]}}\n')
            url = f"https://cs.stanford.edu/people/rak248/VG_100K_2/{nth}.jpg"
            data.write(f'{"," if nth else "["}{{"image_id": {nth}, "width": 800, "height": 600, "url": "{url}"}}\n')
        file.write("]")
        data.write("]")
    code = (
        "import re, sys, time\n"
        "import numpy, pyarrow\n"
        "from mutua.data.readers.instruction.visual_genome import VisualGenome\n"
        "def peak():\n"
        "    return int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) // 1024\n"
        "before, start = peak(), time.monotonic()\n"
        "reader = VisualGenome(sys.argv[1], turns=int(sys.argv[2]))\n"
        "reader.without_images(len(reader) // 2)\n"
        "print(len(reader), time.monotonic() - start, peak() - before)\n"
    )
    figures = []
    for turns in (1, 1, 4, 4):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), str(turns)], capture_output=True, text=True, check=True
        )
        size, seconds, grown_mb = (float(figure) for figure in done.stdout.split())
        figures.append((turns, int(size), round(seconds, 2), int(grown_mb)))
    print(figures)
    assert [figure[1] for figure in figures] == [regions, regions, regions // 4, regions // 4]
    assert all(seconds < 2 and grown_mb < 100 for _, _, seconds, grown_mb in (figures[1], figures[3]))
    assert VisualGenome(tmp_path).without_images(0).answer == "the clock number 0 is green in colour"
