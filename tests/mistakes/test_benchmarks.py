"""What is wrong with the data of a benchmark, or with how a suite is asked for, and what is read then.

Nothing is asked before the data were looked through, and nothing that is wrong is scored.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from what_users_read import Mistake, check, lock_folder, mutua, rows

from mutua.evaluation.benchmarks import BENCHMARKS
from mutua.evaluation.fixtures import write_parquet, write_tsv
from mutua.evaluation.questions import open_questions

csv.field_size_limit(sys.maxsize)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("benchmarks")
    write_tsv(place / "tsv")
    write_parquet(place / "parquet")
    return place


@pytest.fixture
def place(template, tmp_path, monkeypatch) -> Path:
    shutil.copytree(template, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mutua.unlocking.open_model", _no_question)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return tmp_path


def _no_question(*_: Any, **__: Any) -> None:
    raise AssertionError("a model was opened before the data were looked at")


def _lines(name: str) -> list[dict[str, str]]:
    with open(f"data/tsv/{name}.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def changed(task: str, name: str, *changes: Callable[[list[dict[str, str]]], list[dict[str, str]] | None]) -> Any:
    """Opens a benchmark whose file was changed."""

    def do(place: Path) -> Any:
        lines = _lines(name)
        for change in changes:
            lines = change(lines) or lines
        with open(f"data/tsv/{name}.tsv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(lines)
        opened = open_questions(BENCHMARKS[task], place / "data/tsv")
        return [opened.pictures(number) for number in range(len(opened.all))]

    return do


def setting(number: int, column: str, value: str) -> Any:
    def change(lines: list[dict[str, str]]) -> None:
        lines[number][column] = value

    return change


def without(column: str) -> Any:
    return lambda lines: [{name: value for name, value in line.items() if name != column} for line in lines]


def less(number: int) -> Any:
    return lambda lines: lines[:number] + lines[number + 1 :]


def parquet(task: str, **columns: Any) -> Any:
    """Opens a benchmark with other columns in the first of its files; None removes one."""

    def do(place: Path) -> Any:
        import pyarrow.parquet as pq

        path = next(iter(sorted((place / "data/parquet" / task).rglob("*.parquet"))))
        table = pq.read_table(path)
        for name, value in columns.items():
            index = table.column_names.index(name)
            table = table.remove_column(index)
            if value is not None:
                table = table.append_column(name, [[value] * len(table)])
        pq.write_table(table.replace_schema_metadata(None), path)
        return open_questions(BENCHMARKS[task], place / "data/parquet")

    return do


def twice(place: Path) -> Any:
    folder = place / "data/parquet/cv_bench"
    shutil.copy(folder / "test_2d.parquet", folder / "test.parquet")
    return open_questions(BENCHMARKS["cv_bench"], place / "data/parquet")


def garbage(place: Path) -> Any:
    for path in (place / "data/parquet/pope").rglob("*.parquet"):
        path.write_bytes(b"no table")
    return open_questions(BENCHMARKS["pope"], place / "data/parquet")


def suite(*words: object) -> Any:
    return lambda place: mutua("eval", "--suite", "paper", *words)


def locked(place: Path) -> Any:
    """`eval check` where nobody may look into pope/."""
    with pytest.MonkeyPatch.context() as patch:
        lock_folder(patch, "pope")
        open_questions(BENCHMARKS["pope"], place / "data/parquet")


def without_records(place: Path) -> Any:
    first = other_answers_in(place, "?", "?")
    (place / "b/records/pope.jsonl").unlink()
    return mutua("eval", "compare", first, "b")


def other_answers(place: Path) -> Any:
    """Two evaluations, of which one was asked other questions."""
    return mutua("eval", "compare", other_answers_in(place, "?", "!"), "b")


def other_answers_in(place: Path, *prompts: str) -> str:
    """Two evaluations, a and b, that were asked these; returns a."""
    question = {"id": "1", "prompt": "?", "text": "?", "answer": "Yes", "choices": {}, "group": "", "category": "x"}
    for name, prompt in zip("ab", prompts, strict=True):
        (place / name / "records").mkdir(parents=True)
        verdict = {"read": "Yes", "score": 1.0, "more": {}, "why": ""}
        line = {**question, "prompt": prompt, "more": {}, "reply": "yes", "is_cut": False, "verdict": verdict}
        (place / name / "records/pope.jsonl").write_text(json.dumps(line) + "\n")
        found = {"protocol": {}, "judge": None, "data": {"digest": name}}
        settings = {"model": "m", "policy": "mma", "limit": None}
        result = {"settings": settings, "benchmarks": {"pope": found}}
        (place / name / "results.json").write_text(json.dumps(result))
    return "a"


MISTAKES = [
    Mistake(
        "a column is missing",
        changed("pope", "POPE", without("answer")),
        ("pope: ", "POPE.tsv: no column 'answer'; it has index, image, question, category.", "fetch it again"),
    ),
    Mistake(
        "no column of pictures",
        parquet("mme", image=None),
        ("test-00000-of-00001.parquet: no column 'image'; it has question_id, question, answer, category."),
    ),
    Mistake(
        "an empty cell", changed("pope", "POPE", setting(3, "question", "")), ("POPE.tsv: row 3 has an empty cell",)
    ),
    Mistake(
        "what a judge is told is empty",
        changed("llava_w", "LLaVABench", setting(1, "caption", "")),
        ("LLaVABench.tsv: row 1 has an empty cell in its column 'caption': fetch the file again",),
    ),
    Mistake(
        "abilities are missing",
        changed("mm_vet", "MMVet", setting(1, "category", "")),
        ("MMVet.tsv: row 1 has an empty cell in its column 'category'",),
    ),
    Mistake(
        "a question is missing", parquet("mathvista", query=""), ("row 0 has an empty cell in its column 'query'",)
    ),
    Mistake(
        "an answer of a type that MathVista has not",
        parquet("mathvista", answer_type="date"),
        ("row 1 is not as published (MathVista has no answer_type 'date': it has integer, float, text and list",),
    ),
    Mistake(
        "a question of a type that MMMU has not",
        parquet("mmmu", question_type="essay"),
        ("row 0 is not as published (MMMU has no question_type 'essay'",),
    ),
    Mistake(
        "an answer that no option has",
        parquet("seed", answer="E"),
        ("row 0 is not as published (its answer 'E' is none of its options A, B, C, D)",),
    ),
    Mistake(
        "an answer that is no letter",
        changed("mmbench", "MMBench_DEV_EN", setting(0, "answer", "dog")),
        ("row 0 is not as published (its answer 'dog' is none of its options A, B, C, D)",),
    ),
    Mistake(
        "a question that is no text", parquet("pope", question=7), ("row 0 is not as published (its prompt is no text",)
    ),
    Mistake(
        "a picture is missing",
        changed("mm_vet", "MMVet", setting(2, "image", "")),
        ("MMVet.tsv: row 2 (2) has no picture in its column 'image'",),
    ),
    Mistake(
        "a picture is no base64",
        changed("mm_vet", "MMVet", setting(2, "image", "*" * 99)),
        ("MMVet.tsv: row 2 (2): its picture is no valid base64",),
    ),
    Mistake(
        "a picture is no picture",
        changed("mm_vet", "MMVet", setting(2, "image", "AAAA" * 30)),
        ("MMVet.tsv: row 2 (2): not an image",),
    ),
    Mistake(
        "a picture is that of a row that is not there",
        changed("mm_vet", "MMVet", setting(2, "image", "77")),
        ("row 2 (2): its picture is that of row '77', which is not there",),
    ),
    Mistake(
        "a picture is that of a row that has none",
        changed("mme", "MME", setting(0, "image", "1"), setting(1, "image", "[]")),
        ("MME.tsv: row 0 (0): its picture is that of row '1', which has 0 pictures, not one",),
    ),
    Mistake(
        "a picture is that of a row that has several",
        changed("mm_vet", "MMVet", setting(1, "image", "['AAAA', 'AAAA']"), setting(0, "image", "1")),
        ("MMVet.tsv: row 0 (0): its picture is that of row '1', which has 2 pictures, not one",),
    ),
    Mistake(
        "a list of pictures that is cut off",
        changed("mmmu", "MMMU_DEV_VAL", setting(0, "image", "['iVBOR" + "A" * 999)),
        ("MMMU_DEV_VAL.tsv: row 0 (0): its pictures are no list of texts", "(got \"['iVBORAAA", "fetch the file again"),
    ),
    Mistake(
        "a list of pictures that are none",
        changed("mmmu", "MMMU_DEV_VAL", setting(0, "image", "[1, 2]")),
        ("MMMU_DEV_VAL.tsv: row 0 (0): its pictures are no list of texts", "(got '[1, 2]')"),
    ),
    Mistake(
        "a list of pictures that nothing could hold",
        changed("mmmu", "MMMU_DEV_VAL", setting(0, "image", "[{[]: 1}]")),
        ("MMMU_DEV_VAL.tsv: row 0 (0): its pictures are no list of texts", "(got '[{[]: 1}]')"),
    ),
    Mistake(
        "a text asks for a picture that is not there",
        changed("mmmu", "MMMU_DEV_VAL", setting(0, "question", "<image 3>?")),
        ("MMMU_DEV_VAL.tsv: row 0 (0): it asks for picture 3, and there are 1",),
    ),
    Mistake(
        "an id twice",
        changed("mm_vet", "MMVet", setting(2, "index", "0")),
        ("mm_vet: question '0' comes twice, as number 0 and 2: remove one", "MMVet.tsv"),
    ),
    Mistake("the same rows in two files", twice, ("comes twice", "test.parquet", "test_2d.parquet")),
    Mistake(
        "half a pair of MME", changed("mme", "MME", less(1)), ("mme: MME.tsv: MME asks two questions", "keep both")
    ),
    Mistake(
        "no such category of MME",
        changed("mme", "MME", setting(0, "category", "colour")),
        ("MME.tsv: MME has no category 'colour': it has existence,",),
    ),
    Mistake(
        "rotations without the question itself",
        changed("mmbench", "MMBench_DEV_EN", less(2)),
        ("mmbench: question 2 has 4 options and is asked 3 times in MMBench_DEV_EN.tsv, not once for each",),
    ),
    Mistake(
        "an answer that is neither yes nor no",
        changed("pope", "POPE", setting(0, "answer", "perhaps")),
        ('POPE.tsv: an answer of a yes/no benchmark is \'Perhaps\': it must be "Yes" or "No"',),
    ),
    Mistake(
        "a source that CV-Bench has not",
        changed("cv_bench", "CV-Bench-2D", setting(0, "source", "LSUN")),
        ("CV-Bench has no source 'LSUN'",),
    ),
    Mistake(
        "an answer that is none of the options",
        changed("mathvista", "MathVista_MINI", setting(0, "answer", "plaid")),
        ("MathVista_MINI.tsv: row 0 is not as published ('plaid' is not in list)",),
    ),
    Mistake(
        "options that are no list",
        parquet("mmmu", options="red or blue"),
        ("validation-00000-of-00001.parquet and 1 more: row 0 is not as published ('red or blue' is no list",),
    ),
    Mistake("an index that is no number", changed("mmbench", "MMBench_DEV_EN", setting(0, "index", "one")), ("row 0",)),
    Mistake("a folder that nobody may read", locked, ("parquet/pope: cannot be read (Permission denied): see to",)),
    Mistake("no table", garbage, ("pope/data/test-00000-of-00001.parquet: cannot be read as a table",)),
    Mistake("suite: no data", suite(), ("the benchmarks are read from a folder: name it with --data",)),
    Mistake("suite: no such folder", suite("-d", "no"), ("--data no: there is no such folder",)),
    Mistake(
        "suite: data that are not there",
        suite("-d", ".", "--tasks", "pope,mme"),
        ("pope: nothing in .: pope/data/test*.parquet or POPE.tsv is looked for there", "mme: nothing in ."),
    ),
    Mistake(
        "suite: no such task", suite("-d", "data/tsv", "--tasks", "pop"), ("no benchmark 'pop': use mme, mmbench",)
    ),
    Mistake("suite: no task", suite("-d", "data/tsv", "--tasks", ","), ("--tasks ,: no benchmark ''",)),
    Mistake(
        "suite: a judge's address that is none",
        suite("-d", "data/tsv", "--judge", "j", "--judge-url", "localhost:8000/v1"),
        ("--judge j: localhost:8000/v1 is no server of the judge 'j': its address begins with http:// or https://",),
    ),
    Mistake(
        "suite: a judge without a key is told before anything is opened",
        suite("-d", "no", "--judge", "j"),
        ("--judge j: the judge 'j' needs a key: put it into the environment variable OPENAI_API_KEY",),
    ),
    Mistake("no such suite", lambda place: mutua("eval", "--suite", "papers"), ("--suite papers: there is paper",)),
    Mistake("tasks without a suite", lambda place: mutua("eval", "--tasks", "pope"), ("--tasks is for --suite paper",)),
    Mistake(
        "a judge without a suite", lambda place: mutua("eval", "--judge", "j"), ("--judge j is for --suite paper",)
    ),
    Mistake("suite: two models", suite("-m", "a", "-m", "b"), ("--model b: with --suite it is given once",)),
    Mistake("suite: a limit on tokens", suite("--max-new-tokens", "9"), ("--max-new-tokens 9 is not for --suite",)),
    Mistake("suite: a result file", suite("--json", "a.json"), ("--json a.json is not for --suite",)),
    Mistake(
        "an option before a subcommand",
        lambda place: mutua("eval", "-d", "data/tsv", "check", "-d", "data/tsv"),
        ("--data stands before a command that does not read it: see mutua eval check --help",),
    ),
    Mistake(
        "check: no such folder",
        lambda place: mutua("eval", "check", "-d", "no"),
        ("--data no: there is no such folder",),
    ),
    Mistake(
        "fixtures: a file in the way",
        lambda place: mutua("eval", "fixtures", "data/tsv/MME.tsv"),
        ("DIR data/tsv/MME.tsv: no folder can be made there (File exists); name another",),
    ),
    Mistake(
        "compare: a page that is none",
        lambda place: mutua("eval", "compare", other_answers_in(place, "?", "?"), "b", "-o", "a.pdf"),
        ("--output a.pdf: it is written as .html; name a file that ends so",),
    ),
    Mistake(
        "compare: records are missing",
        without_records,
        ("b: the evaluation is damaged (FileNotFoundError", "run its command again"),
    ),
    Mistake(
        "compare: nothing there", lambda place: mutua("eval", "compare", "a", "b"), ("a: there is no results.json",)
    ),
    Mistake(
        "compare: other questions", other_answers, ("pope: a and b were asked other questions", "evaluate both on")
    ),
]


@rows(MISTAKES)
def test_mistake(mistake, place):
    check(mistake, place)
