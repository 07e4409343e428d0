"""Task files with which lmms-eval reads the paper's benchmarks from a folder instead of the hub.

Each takes over everything from the task file that lmms-eval ships, prompt and scoring included, but for where the data
lies. `python -m mutua.evaluation.harness.lmms_eval_tasks DATA FOLDER` writes them; then

    lmms-eval eval --model mutua --include_path FOLDER --tasks mme_local,pope_local --batch_size 8
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mutua.data.sample import SampleError
from mutua.evaluation.benchmarks import BENCHMARKS
from mutua.evaluation.questions import find_files

# Of each benchmark: the shipped task files, and what the names of its data files contain.
_SHIPPED: dict[str, Sequence[tuple[str, str]]] = {
    "mme": [("mme/mme.yaml", "")],
    "mmbench": [("mmbench/mmbench_en_dev.yaml", "")],
    "seed": [("seedbench/seedbench.yaml", "")],
    "llava_w": [("llava-in-the-wild/llava-in-the-wild.yaml", "")],
    "mmmu": [("mmmu/mmmu_val.yaml", "")],
    "mathvista": [("mathvista/mathvista_testmini_format.yaml", "")],
    "pope": [("pope/pope.yaml", "")],
    "mm_vet": [("mmvet/mmvet.yaml", "")],
    "realworldqa": [("realworldqa/realworldqa.yaml", "")],
    "cv_bench": [("cv_bench/cv_bench_2d.yaml", "2d"), ("cv_bench/cv_bench_3d.yaml", "3d")],
}


def write_tasks(data: Path, folder: Path) -> list[str]:
    """Writes a task file for each of the paper's benchmarks that lies in `data` as it is published, in Parquet.

    Returns:
        The names of the tasks, such as "mme_local".

    Raises:
        SampleError: there is none in the folder.
        ImportError: lmms-eval is not installed.
        OSError: a file cannot be written.
    """
    found = find_spec("lmms_eval")
    if found is None or not found.submodule_search_locations:
        raise ImportError('the lmms-eval package is not installed: pip install "mutua[lmms-eval]"')
    shipped = Path(found.submodule_search_locations[0]) / "tasks"
    names = []
    for benchmark, tasks in _SHIPPED.items():
        layout, files = find_files(BENCHMARKS[benchmark], data) or ("", [])
        if layout != "parquet":
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for task, part in tasks:
            name = f"{benchmark}_{part}_local" if part else f"{benchmark}_local"
            lies_in = [str(file.resolve()) for file in files if part in file.name]
            if lies_in:
                (folder / f"{name}.yaml").write_text(_task(name, shipped / task, lies_in), encoding="utf-8")
                names.append(name)
    if not names:
        raise SampleError(f"{data}: none of the paper's benchmarks lies there in Parquet, as they are published.")
    return names


def _task(name: str, shipped: Path, files: Sequence[str]) -> str:
    settings: dict[str, object] = {
        "include": str(shipped),
        "task": name,
        "tag": [],
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": files}},
        "test_split": "test",
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())  # JSON is YAML


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mutua.evaluation.harness.lmms_eval_tasks", description=write_tasks.__doc__
    )
    parser.add_argument("data", type=Path, help="the folder that holds the benchmarks, each in a folder of its own")
    parser.add_argument("folder", type=Path, help="where the task files go; for lmms-eval's --include_path")
    given = parser.parse_args()
    try:
        print(",".join(write_tasks(given.data, given.folder)))
    except (ValueError, ImportError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
