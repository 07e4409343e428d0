"""Mutua's answers in VLMEvalKit's files, so that VLMEvalKit can score them again, offline and by its own rules.

`python -m mutua.evaluation.harness.vlmevalkit_files OUTPUT DATA FOLDER` writes them; then, in Python,

    from vlmeval.dataset import build_dataset
    build_dataset("MME").evaluate("FOLDER/mutua-mma-1a2b3c4d_MME.xlsx", model="exact_matching")

A file has policy and weights in its name: VLMEvalKit leaves its verdicts beside it, and would take them for those of
others of the same name.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mutua.data.sample import SampleError
from mutua.evaluation.benchmark import Benchmark
from mutua.evaluation.benchmarks import BENCHMARKS, PAPER
from mutua.evaluation.predictions import Predictions, key_of
from mutua.evaluation.questions import find_files, open_questions
from mutua.evaluation.suite import PREDICTIONS, RUN


def write_predictions(output: Path, data: Path, folder: Path) -> list[Path]:
    """Writes a spreadsheet for each of VLMEvalKit's tables of the paper's benchmarks that lies in `data`.

    Args:
        output: of `mutua eval --suite`, which asked the questions of that same data.
        data: with the tables as VLMEvalKit has them, in TSV.

    Returns:
        The files: the columns of the table without its pictures, and the replies; rows that were not asked are left
        out.

    Raises:
        SampleError: there is no such table, or the answers are to other questions.
        ImportError: pandas or openpyxl is not installed.
        OSError: a file cannot be written.
    """
    written = []
    for name in PAPER:
        layout, files = find_files(BENCHMARKS[name], data) or ("", [])
        if layout == "tsv":
            written += _write(BENCHMARKS[name], files, output, data, folder)
    if not written:
        raise SampleError(f"{data}: none of VLMEvalKit's tables (MME.tsv, ...) of which {output} holds answers.")
    return written


def _write(benchmark: Benchmark, files: list[Path], output: Path, data: Path, folder: Path) -> list[Path]:
    try:
        import pandas as pd
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    except ImportError as error:
        raise ImportError("the pandas and openpyxl packages are needed: pip install pandas openpyxl") from error
    answers = Predictions(output / PREDICTIONS, benchmark.name).read()
    if not answers:
        return []
    questions = open_questions(benchmark, data)
    replies = {
        question.id: ILLEGAL_CHARACTERS_RE.sub(" ", answers[key].text)  # a spreadsheet holds no others
        for question in questions.all
        if (key := key_of(question, questions.protocol, questions.version)) in answers
    }
    if not replies:
        raise SampleError(f"{benchmark.name}: the answers in {output} are to other questions than those in {files[0]}.")
    written = []
    for file in files:
        table = pd.read_csv(file, sep="\t", usecols=_is_no_picture)  # as VLMEvalKit reads it
        texts = pd.read_csv(file, sep="\t", usecols=_is_no_picture, dtype=str).astype(object)
        rows = texts.where(texts.notna(), None).to_dict("records")
        asked = [benchmark.layouts["tsv"].question(row, number) for number, row in enumerate(rows)]
        table["prediction"] = [replies.get(question.id) if question is not None else None for question in asked]
        table = table[table["prediction"].notna()]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_model(output)}_{file.stem}.xlsx"
        with pd.ExcelWriter(path, engine="openpyxl") as writer:
            table.to_excel(writer, index=False)
            _keep_texts(writer.book.active)
        written.append(path)
    return written


def _keep_texts(sheet: Any) -> None:
    """Makes every text a text: openpyxl takes "=B" for a formula and "#N/A" for an error, and pandas reads neither."""
    for cell in (cell for row in sheet.iter_rows() for cell in row):
        if isinstance(cell.value, str):
            cell.data_type = "s"


def _model(output: Path) -> str:
    """What was evaluated, as VLMEvalKit has it in the names of its files."""
    settings = json.loads((output / RUN).read_text(encoding="utf-8"))
    return "-".join(["mutua", *([settings["policy"]] if settings["policy"] else []), settings["weights"][:8]])


def _is_no_picture(column: str) -> bool:
    return column != "image"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mutua.evaluation.harness.vlmevalkit_files",
        description="Writes the answers of `mutua eval --suite` as VLMEvalKit keeps them, for it to score.",
    )
    parser.add_argument("output", type=Path, help="the --output of `mutua eval --suite`")
    parser.add_argument("data", type=Path, help="its --data, with VLMEvalKit's tables")
    parser.add_argument("folder", type=Path, help="where the spreadsheets go")
    given = parser.parse_args()
    try:
        print(*write_predictions(given.output, given.data, given.folder), sep="\n")
    except (ValueError, ImportError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
