"""Writes VLMEvalKit's verdicts on the replies and tables of `awkward.py`:

    python tests/harness/record_cases.py tests/evaluation/harness_cases.json.gz

Run it where one of its two packages is installed, then in the environment of the other: each run adds its own verdicts
to the file and leaves those of the other. Both packages call themselves `vlmeval`, so they cannot share an environment.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torchvision_operators  # noqa: F401 - before the harness is imported
from awkward import Case, cases, tables

os.environ.pop("VERBOSE", None)  # with it, the harness reads options by another rule

from vlmeval.dataset import image_mcq, image_yorn
from vlmeval.dataset.utils import mathvista, mmvet
from vlmeval.dataset.utils.yorn import YOrN_Extraction
from vlmeval.utils import can_infer

try:
    from vlmeval.dataset.utils import llavabench
except ModuleNotFoundError:  # ms-vlmeval 0.0.20 imports it from a place where it is not
    llavabench = None

DATASETS = {
    "mme": (image_yorn.ImageYORNDataset, "MME"),
    "pope": (image_yorn.ImageYORNDataset, "POPE"),
    "mmbench": (image_mcq.ImageMCQDataset, "MMBench_DEV_EN"),
    "mmmu": (image_mcq.MMMUDataset, "MMMU_DEV_VAL"),
    "realworldqa": (image_mcq.ImageMCQDataset, "RealWorldQA"),
    "spreadsheet": (image_mcq.ImageMCQDataset, "RealWorldQA"),
    "seed": (image_mcq.ImageMCQDataset, "SEEDBench_IMG"),
    "cv-bench": (getattr(image_mcq, "CVBench", None), "CV-Bench"),
}


class _Judge:
    """A judge that says one thing, once."""

    def __init__(self, says: str) -> None:
        self.says = [says]

    def generate(self, prompt: str, **_: Any) -> str:
        return self.says.pop() if self.says else "?"


def verdict(case: Case) -> Any:
    """What the harness makes of one reply, or of what one judge said."""
    text = case["text"]
    if case["kind"] == "yes_no":
        return YOrN_Extraction(text)
    if case["kind"] == "option":
        return can_infer(text, dict(case["choices"]))
    if case["kind"] == "mm_vet":
        asked = mmvet.MMVet_auxeval(_Judge(text), {"question": "", "answer": "", "prediction": ""})
        return asked["score"] if asked["log"] == "Succeed" else None
    if case["kind"] == "llava_bench":
        return llavabench and llavabench.parse_score(text)
    line = {"prediction": text, "answer": case["answer"], "answer_type": case["type"], "question_type": "free_form"}
    if case["type"] == "multi_choice":
        choices = case["choices"]
        letter = next(letter for letter, wording in choices.items() if wording == case["answer"])
        line |= {"question_type": "multi_choice", "choices": str(list(choices.values())), "answer_option": letter}
    return mathvista.post_check(line, prefetch=True)


def table_verdict(name: str, rows: list[Case], folder: Path) -> Any:
    """The figures of the harness for a whole table, with the verdict on each row where it keeps one."""
    data = pd.DataFrame(rows)
    benchmark = name.split()[0]
    file = folder / f"{name.replace(' ', '-')}.xlsx"
    data.to_excel(file, index=False, engine="openpyxl")
    if benchmark == "mathvista":
        figures = _figures(mathvista.MathVista_acc(str(file)), "Task&Skill")
        read = pd.read_excel(file)
        figures["hits"] = {int(row["index"]): int(mathvista.post_check(row)) for _, row in read.iterrows()}
        return figures
    if benchmark == "mm-vet":
        return _figures(mmvet.MMVet_acc(str(file))[0], "Category")
    if benchmark == "llava-bench":
        return llavabench and _figures(llavabench.LLaVABench_score(data), "split")
    kind, dataset_name = DATASETS[benchmark]
    if kind is None:
        return None
    dataset = object.__new__(kind)  # its constructor would download the data
    dataset.dataset_name = dataset_name
    dataset.data = data.drop(columns="prediction")
    scores = dataset.evaluate(str(file), model="exact_matching", nproc=1)
    if benchmark == "mme":
        return {name: float(value) for name, value in scores.iloc[0].items()}
    figures = _figures(scores, "split")
    if benchmark != "pope":
        results = pd.read_excel(next(folder.glob(f"{file.stem}_exact_matching_result.xlsx")))
        figures["hits"] = {int(row["index"]): int(row["hit"]) for _, row in results.iterrows()}
    return figures


def _figures(scores: pd.DataFrame, by: str) -> dict[str, Any]:
    return {str(row[by]): {k: float(v) for k, v in row.items() if k != by} for _, row in scores.iterrows()}


def main(path: Path) -> None:
    replies, benchmarks = cases(), tables()
    recorded = json.loads(gzip.decompress(path.read_bytes())) if path.exists() else {}
    if recorded.get("cases") != replies or recorded.get("tables") != benchmarks:
        recorded = {"cases": replies, "tables": benchmarks, "verdicts": {}}
    installed = next(name for name in ("ms-vlmeval", "nvidia-vlmeval") if _version(name))
    with tempfile.TemporaryDirectory() as folder:
        recorded["verdicts"][f"{installed}=={_version(installed)}"] = {
            "cases": [_plain(verdict(case)) for case in replies],
            "tables": {name: table_verdict(name, rows, Path(folder)) for name, rows in benchmarks.items()},
        }
    recorded["verdicts"] = dict(sorted(recorded["verdicts"].items()))
    text = json.dumps(recorded, ensure_ascii=False, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(replies)} replies and {len(benchmarks)} tables, judged by {', '.join(recorded['verdicts'])}: {path}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    """JSON has no nan."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return "nan" if value != value else value


if __name__ == "__main__":
    main(Path(sys.argv[1]))
