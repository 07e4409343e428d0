"""lmms-eval finds Mutua's models by itself, and what they answer there is what `mutua.ask` answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lmms_eval")

import torch
from lmms_eval.models import get_model
from scripted_judge import Answer, scripted
from unlocked_pairs import llava

import mutua
from mutua.api import conversation
from mutua.data.sample import SampleError
from mutua.evaluation import fixture_rows
from mutua.evaluation.fixtures import write_parquet
from mutua.evaluation.harness.lmms_eval_model import LmmsEvalModel, generate_options, until
from mutua.evaluation.harness.lmms_eval_tasks import write_tasks
from mutua.respond import respond

NEW_TOKENS = 16  # some tasks would have 16,384
TASKS = [
    *("mme_local", "mmbench_local", "seed_local", "llava_w_local", "mmmu_local", "mathvista_local", "pope_local"),
    *("mm_vet_local", "realworldqa_local", "cv_bench_2d_local", "cv_bench_3d_local"),
]


def judged(_: int, request: dict) -> Answer:
    """Two grades for LLaVA-Bench, one for the others: what cannot be read, the harness asks again, minutes long."""
    return Answer("5 5" if "Assistant 1" in str(request) else "0.5", model="gpt-judge")


ONE = ("lmms_eval",)
BY_TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2", "--module", "lmms_eval")
BY_ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "--module", "lmms_eval")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with all benchmarks and their task files."""
    folder = tmp_path_factory.mktemp("lmms-eval")
    write_parquet(folder / "data")
    assert write_tasks(folder / "data", folder / "tasks") == TASKS
    return folder


def lmms_eval(
    place: Path, output: Path, launcher: tuple[str, ...] = ONE, *, model: str = "policy=mma", tasks: list[str] = TASKS
) -> Path:
    """The folder of a run of the command over tasks in `place`, with a judge on this machine."""
    command = [sys.executable, "-m", *launcher, "eval", "--model", "mutua", "--model_args", model]
    command += ["--include_path", "tasks", "--tasks", ",".join(tasks), "--batch_size", "4", "--device", "cpu"]
    command += ["--output_path", str(output), "--log_samples", "--gen_kwargs", f"max_new_tokens={NEW_TOKENS}"]
    with scripted(judged) as judge:
        settings = {"OPENAI_API_KEY": "none", "OPENAI_API_URL": judge.url, "MODEL_VERSION": "gpt-judge"}
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "cache"), "NO_PROXY": "127.0.0.1"}
        environment = os.environ | settings | offline
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(output.rglob("*_results.json")), done.stderr[-3000:]  # it exits with 0 where it fails
    return output


@pytest.fixture(scope="module")
def run(place):
    return lmms_eval(place, place / "one")


def samples(folder: Path, task: str) -> list[dict]:
    (file,) = folder.rglob(f"*_samples_{task}.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return sorted(rows, key=lambda row: row["doc_id"])


def pictures(row: dict) -> list:
    found = row["decoded_image"] if "decoded_image" in row else row["image"]
    return list(found) if isinstance(found, list) else [found]


@pytest.fixture(scope="module")
def packaged():
    return mutua.load()


@pytest.mark.parametrize("task", [task for task in TASKS if task != "mmmu_local"])
def test_replies_are_those_of_mutua_ask(run, packaged, task):
    name = task.removesuffix("_local")
    rows = getattr(fixture_rows, name.removesuffix("_2d").removesuffix("_3d"))()
    if name.startswith("cv_bench"):
        rows = [row for row in rows if row["type"].lower() == name[-2:]]
    given = samples(run, task)
    assert len(given) == len(rows)
    for row, sample in zip(rows, given, strict=True):
        answer = mutua.ask(*packaged, pictures(row), sample["input"], max_new_tokens=NEW_TOKENS)
        assert sample["filtered_resps"] == answer, sample["input"]


def test_a_model_of_others_answers_unlocked(place, tmp_path):
    """By policy=mma, or because it was saved so."""
    torch.manual_seed(0)
    model, processor = llava()
    with torch.no_grad():  # random weights say little: make differences large
        for parameter in model.parameters():
            parameter.mul_(2.0)
    rows = fixture_rows.pope()

    def answers(questions: list[str]) -> list[str]:
        asked = [conversation(pictures(row), question) for row, question in zip(rows, questions, strict=True)]
        return [answer.text for answer in respond(model, processor, asked, max_new_tokens=NEW_TOKENS)]

    for part in (model, processor):
        part.save_pretrained(tmp_path / "locked")
    mutua.unlock(model, processor)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "unlocked")
    for folder, more in (("locked", ",policy=mma"), ("unlocked", "")):
        named = f"pretrained={tmp_path / folder}{more}"
        out = lmms_eval(place, tmp_path / f"out of {folder}", model=named, tasks=["pope_local"])
        given = samples(out, "pope_local")
        questions = [sample["input"] for sample in given]
        assert [sample["filtered_resps"] for sample in given] == answers(questions)
    mutua.lock(model)
    assert [sample["filtered_resps"] for sample in given] != answers(questions), "another mask shows"


def test_pictures_stand_where_mmmu_has_them(run, packaged):
    rows = fixture_rows.mmmu()
    by_id = {row["id"]: row for row in rows}
    for sample in samples(run, "mmmu_local"):
        row = by_id[sample["mmmu_acc"]["id"]]
        parts, rest = [], sample["input"]
        for nth in range(1, 3):
            before, mark, behind = rest.partition(f"<image {nth}>")
            if mark:
                parts += [{"type": "text", "text": before.strip()}] if before.strip() else []
                parts.append({"type": "image", "image": row[f"image_{nth}"]})
                rest = behind
        parts.append({"type": "text", "text": rest.strip()})
        (answer,) = respond(*packaged, [[{"role": "user", "content": parts}]], max_new_tokens=NEW_TOKENS)
        assert sample["filtered_resps"] == answer.text


def figures(folder: Path) -> dict[str, dict[str, float]]:
    """By task; of MMMU, whose harness guesses, and of how far a figure is off, nothing."""
    (file,) = folder.glob("*_results.json")
    found = json.loads(file.read_text())["results"]
    return {
        task: {name: value for name, value in found[task].items() if isinstance(value, float) and "stderr" not in name}
        for task in TASKS
        if task != "mmmu_local"
    }


@pytest.mark.parametrize("launcher", [BY_TORCHRUN, BY_ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_give_what_one_gives(place, run, launcher, request):
    two = lmms_eval(place, place / request.node.callspec.id, launcher)
    for task in TASKS:
        alone, shared = ([(s["doc_id"], s["filtered_resps"]) for s in samples(folder, task)] for folder in (run, two))
        assert shared == alone
    assert figures(two) == {task: pytest.approx(found) for task, found in figures(run).items()}


def test_lmms_eval_finds_the_model():
    assert get_model("mutua") is LmmsEvalModel


def test_arguments_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="--model_args attn, model: `mutua` takes pretrained and policy"):
        LmmsEvalModel(model="x", attn="y")
    with pytest.raises(ValueError, match="--batch_size auto: name a number"):
        LmmsEvalModel(batch_size="auto")


def test_what_a_task_asks_of_generation():
    options, ends = generate_options({"until": ["\n\n"], "temperature": 0.2, "do_sample": False, "top_p": 1.0})
    assert (options, ends) == ({"max_new_tokens": 512, "do_sample": False}, [])
    options, ends = generate_options({"until": "END", "temperature": 0.7, "max_new_tokens": 9, "num_beams": 2})
    assert options == {"max_new_tokens": 9, "do_sample": True, "temperature": 0.7, "num_beams": 2}
    assert until("one END two", ends) == "one "
    assert until("one two", ends) == "one two"


def test_a_folder_without_benchmarks_is_refused(tmp_path):
    with pytest.raises(SampleError, match="none of the paper's benchmarks lies there in Parquet"):
        write_tasks(tmp_path, tmp_path / "tasks")
