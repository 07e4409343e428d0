"""Rows of results come back as they were written, and a damaged file says where."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_results import costs, looks, pairs, scores, yes

from mutua.study.results import CostRow, LookRow, PairRow, ScoreRow, YesRow, read_rows, write_rows

ROWS = scores(seeds=1, backbones=("llama",), policies=("causal", "mma"), points=2)
ROW = ROWS[0]
words = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(str.strip)


@pytest.mark.parametrize(
    ("kind", "rows"),
    [(ScoreRow, ROWS), (PairRow, pairs(ROWS)), (YesRow, yes(ROWS)), (CostRow, costs()), (LookRow, looks())],
)
def test_what_is_written_is_read(tmp_path, kind, rows):
    assert rows
    write_rows(tmp_path, kind, rows)
    assert read_rows(tmp_path, kind) == tuple(rows)
    assert [path.name for path in tmp_path.iterdir()] == [kind.FILE], "nothing partial is left"


@settings(max_examples=30)
@given(words, words, st.integers(0, 10**12), st.floats(0, 1e12, allow_nan=False))
def test_any_name_and_number_comes_back(tmp_path_factory, backbone, family, seed, seconds):
    folder = tmp_path_factory.mktemp("rows")
    row = replace(ROW, backbone=backbone, family=family, seed=seed, seconds=seconds)
    write_rows(folder, ScoreRow, [row])
    assert read_rows(folder, ScoreRow) == (row,)


def test_no_file_is_no_rows(tmp_path):
    assert read_rows(tmp_path, ScoreRow) == ()
    write_rows(tmp_path, ScoreRow, [])
    assert read_rows(tmp_path, ScoreRow) == ()


def damaged(folder: Path, damage) -> str:
    """The message for a scores.csv of three rows whose text `damage` changed."""
    write_rows(folder, ScoreRow, ROWS[:3])
    path = folder / "scores.csv"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"scores\.csv") as error:
        read_rows(folder, ScoreRow)
    assert str(path) in str(error.value)
    assert "run the same study again" in str(error.value)
    return str(error.value)


def cell(line: int, column: int, value: bytes):
    def damage(content: bytes) -> bytes:
        lines = content.split(b"\n")
        cells = lines[line - 1].split(b",")
        cells[column] = value
        lines[line - 1] = b",".join(cells)
        return b"\n".join(lines)

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: b"", "line 1, column block: is missing"),
        (lambda content: content[:-3], "line 4: breaks off"),
        (lambda content: content.replace(b",family,", b",kind,", 1), "line 1, column family: is named 'kind'"),
        (lambda content: content.replace(b",correct,total\n", b",correct\n", 1), "line 1, column total: is missing"),
        (lambda content: content.replace(b",total\n", b",total,note\n", 1), "line 1, column note: is one too many"),
        (lambda content: content + content.split(b"\n")[1] + b"\n", "line 5: repeats an earlier line: main, llama"),
        (lambda content: content + b"main,llama\n", "line 5, column connector: is missing: 2 values for 16 columns"),
        (lambda content: content + content.split(b"\n")[1] + b",1\n", "line 5: 17 values for 16 columns"),
        (lambda content: content + b"\xff\xfe\n", "line 5: is not UTF-8"),
        (lambda content: content + b'"main\n', "line 5: "),
        (cell(3, 15, b"many"), "line 3, column total: is 'many', no whole number"),
        (cell(3, 15, b""), "line 3, column total: is '', no whole number"),
        (cell(3, 15, b"0"), "line 3, column total: is 0: nothing was asked"),
        (cell(3, 14, b"-1"), "line 3, column correct: is '-1', no whole number"),
        (cell(3, 14, b"99999"), "line 3, column correct: is 99999, more than the total of 400"),
        (cell(4, 10, b"soon"), "line 4, column seconds: is 'soon', no number"),
        (cell(4, 10, b"nan"), "line 4, column seconds: is nan"),
        (cell(4, 10, b"-1.5"), "line 4, column seconds: is -1.5, below 0"),
        (cell(2, 3, b" "), "line 2, column policy: is empty"),
    ],
)
def test_a_damaged_file_says_where(tmp_path, damage, said):
    assert said in damaged(tmp_path, damage)


def test_a_row_is_measured_once(tmp_path):
    write_rows(tmp_path, ScoreRow, ROWS[:1])
    with pytest.raises(ValueError, match="two rows for main, llama"):
        write_rows(tmp_path, ScoreRow, [ROW, replace(ROW, correct=1)])
    assert read_rows(tmp_path, ScoreRow) == (ROW,), "the older file is as it was"


def test_rows_that_cannot_be():
    with pytest.raises(ValueError, match="correct is 401, more than the total of 400"):
        replace(ROW, correct=401)
    with pytest.raises(ValueError, match="seed is -1"):
        replace(ROW, seed=-1)
    with pytest.raises(ValueError, match="nothing was asked"):
        replace(pairs(ROWS)[0], both_right=0, only_policy=0, only_baseline=0, both_wrong=0)
    assert replace(looks()[0], value=-0.5).value == -0.5, "a measure may be negative"
