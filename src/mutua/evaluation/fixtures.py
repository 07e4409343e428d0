"""Small synthetic copies of the paper's benchmarks, in the columns in which they are published.

They show that everything runs, offline and within seconds. A score on them says nothing of a model.
"""

from __future__ import annotations

import ast
import base64
import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from mutua.evaluation.fixture_rows import (
    LETTERS,
    Rows,
    cv_bench,
    llava_w,
    mathvista,
    mm_vet,
    mmbench,
    mme,
    mmmu,
    pope,
    realworldqa,
    seed,
)
from mutua.folders import whole_file

_ONE = "00000-of-00001.parquet"

_PARQUET: Mapping[str, Callable[[], dict[str, Rows]]] = {
    "mme": lambda: {f"data/test-{_ONE}": mme()},
    "pope": lambda: {f"data/test-{_ONE}": pope()},
    "mmbench": lambda: {f"en/dev-{_ONE}": mmbench()},
    "seed": lambda: {f"data/test-{_ONE}": seed()},
    "llava_w": lambda: {f"data/train-{_ONE}": llava_w()},
    "mmmu": lambda: {
        f"{subject}/validation-{_ONE}": [row for row in mmmu() if row["subfield"] == subject]
        for subject in ("Art", "Physics")
    },
    "mathvista": lambda: {f"data/testmini-{_ONE}": mathvista()},
    "mm_vet": lambda: {f"data/test-{_ONE}": mm_vet()},
    "realworldqa": lambda: {f"data/test-{_ONE}": realworldqa()},
    "cv_bench": lambda: {
        f"test_{kind.lower()}.parquet": [row for row in cv_bench() if row["type"] == kind] for kind in ("2D", "3D")
    },
}
"""By benchmark, what its files hold, by their names in its folder."""


def write_parquet(folder: Path) -> list[Path]:
    """Writes all benchmarks as they are published, a folder each. Returns the files.

    Raises:
        FolderError: one cannot be written.
        ImportError: the `datasets` package is missing.
    """
    try:
        from datasets import Dataset
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError('the datasets package is not installed: pip install "mutua[train]"') from error
    written = []
    for name, files in _PARQUET.items():
        for file, rows in files().items():
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            features = _features(rows)
            table = Dataset.from_list(rows, features=features).with_format("arrow")[:].cast(features.arrow_schema)
            with whole_file(path) as write:
                write(partial(parquet.write_table, table))
            written.append(path)
    return written


def _features(rows: Rows) -> Any:
    from datasets import Features

    first = {name: next((row[name] for row in rows if row[name] is not None), None) for name in rows[0]}
    return Features({name: _feature(name, value) for name, value in first.items()})


def _feature(name: str, value: Any) -> Any:
    from datasets import Image as Picture
    from datasets import List, Value

    if isinstance(value, Image.Image) or (name.startswith("image_") and name[6:].isdigit()):
        return Picture()
    if isinstance(value, list):
        return List(_feature(name, value[0]))
    if isinstance(value, dict):
        return {key: _feature(key, inner) for key, inner in value.items()}
    return Value({int: "int64", float: "float64"}.get(type(value), "string"))


def write_tsv(folder: Path) -> list[Path]:
    """Writes all benchmarks as VLMEvalKit has them, one file each. Returns the files.

    Raises:
        FolderError: one cannot be written.
    """
    written = []
    for name, rows in _tsv().items():
        path = folder / f"{name}.tsv"
        columns = list(dict.fromkeys(column for row in rows for column in row))

        def into(partial: Path, rows: Rows = rows, columns: Sequence[str] = columns) -> None:
            with partial.open("w", encoding="utf-8", newline="") as file:
                lines = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
                lines.writeheader()
                lines.writerows(rows)

        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as write:
            write(into)
        written.append(path)
    return written


def _tsv() -> dict[str, Rows]:
    """By VLMEvalKit's names, rows in its columns."""
    choices = {row["idx"]: dict(zip(LETTERS, row["choices"], strict=True)) for row in cv_bench()}
    return {
        "MME": _numbered(mme(), image_path="question_id", **_same("question", "answer", "category")),
        "POPE": [
            row | {"answer": row["answer"].capitalize()}
            for row in _numbered(pope(), **_same("question", "answer", "category"))
        ],
        "MMBench_DEV_EN": [
            {
                "index": row["index"],
                "image": row["index"] % 1_000_000 if row["index"] >= 1_000_000 else _base64(row["image"]),
            }
            | {column: row[column] for column in ("question", "hint", *LETTERS, "answer", "category", "split")}
            | {"l2-category": row["L2-category"]}
            for row in mmbench()
        ],
        "SEEDBench_IMG": _numbered(
            [row | {"image": row["image"][0]} for row in seed() if row["data_type"] == "image"],
            **_same("question", "answer"),
            category="question_type_id",
            **{letter: f"choice_{letter.lower()}" for letter in LETTERS},
        ),
        "LLaVABench": _numbered(llava_w(), **_same("question", "category", "caption"), gpt4_ans="gpt_answer"),
        "MMMU_DEV_VAL": [_mmmu_line(number, row) for number, row in enumerate(mmmu())],
        "MathVista_MINI": _numbered(
            [_mathvista_row(row) for row in mathvista()],
            question="query",
            **_same("answer", "answer_option", "choices", "question_type", "answer_type", "task", "skills"),
        ),
        "MMVet": _numbered(mm_vet(), **_same("question", "answer"), category="capability"),
        "RealWorldQA": [_realworldqa_line(number, row) for number, row in enumerate(realworldqa())],
        **{
            f"CV-Bench-{kind}": _numbered(
                [
                    row | choices[row["idx"]] | {"answer": row["answer"].strip("()")}
                    for row in cv_bench()
                    if row["type"] == kind
                ],
                **_same("question", *LETTERS, "answer", "source", "prompt"),
                category="task",
                split="type",
            )
            for kind in ("2D", "3D")
        },
    }


def _same(*columns: str) -> dict[str, str]:
    return {column: column for column in columns}


def _numbered(rows: Rows, **columns: str) -> Rows:
    """Rows with an index and a picture, and the columns given, by the names that they have in `rows`.

    A picture that came before is the index of its row, as VLMEvalKit has it.
    """
    lines: Rows = []
    pictures: dict[str, int] = {}
    for number, row in enumerate(rows):
        picture = _base64(row["image"])
        first = pictures.setdefault(picture, number)
        line = {"index": number, "image": picture if first == number else first}
        lines.append(line | {ours: row[theirs] for ours, theirs in columns.items()})
    return lines


def _mmmu_line(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    pictures = [_base64(row[f"image_{nth}"]) for nth in range(1, 8) if row[f"image_{nth}"] is not None]
    options = dict(zip(LETTERS, ast.literal_eval(row["options"]), strict=False))
    names = [f"{row['id']}_{nth}.png" for nth in range(1, len(pictures) + 1)]
    line = {"index": number, "id": row["id"]}
    held = (("image", pictures), ("image_path", names))
    line |= {column: str(values) if len(values) > 1 else values[0] for column, values in held}
    answer = {"answer": row["answer"], "category": row["subfield"], "split": "validation"}
    return line | {"question": row["question"], **dict.fromkeys(LETTERS), **options, **answer}


def _mathvista_row(row: Mapping[str, Any]) -> dict[str, Any]:
    choices, told = row["choices"] or [], row["metadata"]
    option = LETTERS[choices.index(row["answer"])] if choices else None
    given = {"image": row["decoded_image"], "choices": str(choices), "answer_option": option}
    return {**row, **given, "task": told["task"], "skills": str(told["skills"])}


def _realworldqa_line(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    question, *rest = row["question"].split("\n")
    options = {line[0]: line[3:] for line in rest if line[1:3] == ". "}
    line = {"index": number, "image": _base64(row["image"]), "question": question, "answer": row["answer"]}
    return line | dict.fromkeys(LETTERS) | options


def _base64(picture: Image.Image) -> str:
    held = BytesIO()
    picture.save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()
