"""Several processes of one run: the same losses as in one, whatever each of them draws, and stops that all agree on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from training_runs import expect_resumed, lines
from two_processes import free_port

from mutua.models.loading import load_model
from mutua.training import Recipe, train
from mutua.training.batches import batches, open_mixture

COMMON = (
    *("model.text.attention_dropout=0.0", "train.precision=fp32", "train.batch_size=8", "train.micro_batch_size=null"),
    *("train.steps=6", "train.checkpoint_every=3", "evaluate.every=3"),
)


# What `mutua train` does, but that one process of the run sends itself a signal after a step.
CHILD = """
import os, signal, sys
from rich.console import Console
from mutua.training import load_recipe, train
from mutua.training.step import Stepper
original = Stepper.update
def update(self, index, *rest):
    metrics = original(self, index, *rest)
    if (str(index), os.environ["RANK"]) == (sys.argv[2], sys.argv[4]):
        os.kill(os.getpid(), getattr(signal, sys.argv[3]))
    return metrics
Stepper.update = update
recipe = load_recipe(sys.argv[1], sys.argv[5:])
if not train(recipe, Console(width=500)).interrupted:
    train(recipe, Console(width=500))  # is done already, and says so
"""


def run(folder: Path, processes: int, *overrides: str, at: int = -1, name: str = "SIGTERM", rank: int = 0) -> str:
    """What a run prints; stopped after step `at` by a signal to one of its processes."""
    (folder / "child.py").write_text(CHILD)
    words = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port())]
    with (folder / "told.txt").open("w") as told:
        subprocess.run(
            [sys.executable, *words, "child.py", "small.yaml", str(at), name, str(rank), *overrides],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=folder,
            stdout=told,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
    return (folder / "told.txt").read_text()


def losses(folder: Path) -> list[Any]:
    return [(line["step"], line["loss"], line["accuracy"], line["grad_norm"]) for line in lines(folder)]


def expect_close(folder: Path, reference: Path, tolerance: float = 1e-5) -> None:
    for got, want in zip(losses(folder), losses(reference), strict=True):
        assert got == pytest.approx(want, rel=tolerance, abs=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, recipe_in) -> Path:
    """A run in one process: what several must repeat."""
    folder = tmp_path_factory.mktemp("alone")
    train(recipe_in(folder, *COMMON))
    return folder / "run"


@pytest.fixture
def recipe(tmp_path: Path, recipe_in) -> Recipe:
    return recipe_in(tmp_path, *COMMON)


def test_two_processes_train_as_one_and_leave_the_same(alone: Path, recipe: Recipe, tmp_path: Path) -> None:
    told = run(tmp_path, 2, *COMMON, "train.async_checkpoints=true")
    assert told.count("Finished:") == 1, "one of them speaks"
    assert told.count("This run is finished") == 1
    assert "on 2 x cpu" in told
    expect_close(tmp_path / "run", alone)
    here, there = (lines(folder, "evaluations.jsonl") for folder in (tmp_path / "run", alone))
    assert [line["step"] for line in here] == [line["step"] for line in there] == [3, 6]
    for mine, theirs in zip(here, there, strict=True):  # a question on the edge may be answered otherwise
        for name, scores in theirs["results"].items():
            assert mine["results"][name]["overall"]["total"] == scores["overall"]["total"]
            assert abs(mine["results"][name]["overall"]["correct"] - scores["overall"]["correct"]) <= 1
    mine, _ = load_model(tmp_path / "run/model")
    theirs, _ = load_model(alone / "model")
    for (name, got), want in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3, msg=name)
    configs = [json.loads((folder / "model/config.json").read_text()) for folder in (tmp_path / "run", alone)]
    for config in configs:
        for part in (config["text_config"], config["vision_config"]):
            part.pop("dtype", None)  # float32, said or not
    assert configs[0] == configs[1]
    for name in ("generation_config.json", "README.md", "modeling_mutua.py", "tokenizer.json"):
        assert (tmp_path / "run/model" / name).read_bytes() == (alone / "model" / name).read_bytes(), name
    assert "2 x cpu" in json.loads((tmp_path / "run/model/run.json").read_text())["device"]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2), (2, 2)])
def test_a_run_goes_on_in_another_number_of_processes(
    first: int, second: int, alone: Path, recipe: Recipe, tmp_path: Path
) -> None:
    """Killed after its checkpoint of step 3; the losses of both parts are those of the unbroken run."""
    told = run(tmp_path, first, *COMMON, at=4, name="SIGKILL", rank=first - 1)
    assert "Finished" not in told
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000003"], told
    told = run(tmp_path, second, *COMMON)
    assert "Resuming from" in told, told
    assert ("Another number of processes" in told) == (first != second)
    expect_close(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all(rank: int, recipe: Recipe, alone: Path, tmp_path: Path) -> None:
    told = run(tmp_path, 2, *COMMON, at=3, rank=rank)
    assert "Stopped at step 4 of 6" in told, told
    assert (tmp_path / "run/checkpoints/step-000004").is_dir()
    assert "Finished" in run(tmp_path, 2, *COMMON)
    expect_close(tmp_path / "run", alone)


@pytest.mark.slow
def test_processes_without_pictures_and_without_samples_take_part(recipe_in, tmp_path: Path) -> None:
    """Each draws one sample a step: some have a picture, some have none, some cannot be used."""
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    chats = []
    for number in range(90):
        content: list[Any] = [{"type": "text", "text": f"what is it{'?' * (number % 5 + 1)}"}]
        if number % 2 == 0:
            content.insert(0, {"type": "image", "image": "red.png" if number % 9 else "missing.png"})
        reply = {"role": "assistant", "content": "red" + " red" * (number % 7)}
        chats.append({"id": str(number), "messages": [{"role": "user", "content": content}, reply]})
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    source = f"data.train=[{{source: {{type: jsonl, path: {tmp_path / 'chats.jsonl'}}}}}]"
    words = (*COMMON[:2], "train.batch_size=4", "train.micro_batch_size=1", "train.steps=20", source)
    words = (*words, "train.checkpoint_every=20", "evaluate={}", "data.max_bad_share=0.5")
    one = recipe_in(tmp_path, *words, f"output={tmp_path / 'one'}")
    train(one)
    assert "Finished" in run(tmp_path, 2, *words, f"output={tmp_path / 'two'}")
    _, processor = load_model(tmp_path / "one/model")
    shares = [batches(open_mixture(one), processor, one, 0, rank=rank, ranks=2) for rank in range(2)]
    counts = []
    for step in zip(*shares, strict=True):
        counts.append([sum("pixel_values" in some for some in share.micro_batches) for share in step])
        counts[-1] += [len(share.micro_batches) for share in step]
    assert any(0 in count[:2] for count in counts), "one had no picture"
    assert any(count[2] != count[3] for count in counts), "one had fewer samples"
    # AdamW passes over what had no gradient, and in shards everything has one: equal until nobody had a picture.
    alike = next((step for step, count in enumerate(counts, 1) if not any(count[:2])), len(counts))
    assert alike >= 10
    for got, want in list(zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True))[:alike]:
        assert got == pytest.approx(want, rel=1e-5, abs=1e-6)
    quarantine = [lines(tmp_path / name, "quarantine.jsonl") for name in ("one", "two")]
    assert quarantine[0] == quarantine[1]
    assert quarantine[0], "some could not be used"


@pytest.mark.slow
def test_many_runs_end_without_a_hang(recipe: Recipe, alone: Path, tmp_path: Path) -> None:
    """A few here; `MUTUA_RUNS=50` for as many as that. Each is stopped by a signal, then goes on."""
    chance = random.Random(0)
    for number in range(int(os.environ.get("MUTUA_RUNS", "5"))):
        beside = f"train.async_checkpoints={chance.choice(['true', 'false'])}"
        words = (*COMMON, f"output={tmp_path / str(number)}", beside)
        at, name = chance.randrange(5), chance.choice(["SIGTERM", "SIGINT", "SIGKILL"])
        told = run(tmp_path, 2, *words, at=at, name=name, rank=chance.randrange(2))
        assert "Finished" not in told, told
        assert "Finished" in run(tmp_path, 2, *words), (number, at, name)
        expect_close(tmp_path / str(number), alone, 1e-5)


@pytest.mark.slow
def test_an_error_in_the_first_process_ends_all_with_its_message(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/log.jsonl").write_text("somebody else's")
    told = run(tmp_path, 2, *COMMON)
    assert "no run wrote it" in told
    assert "EndedElsewhere" in told


@pytest.mark.slow
def test_adapters_are_trained_in_shards_as_in_one(recipe_in, tmp_path: Path) -> None:
    """The same losses, through a stop, and the same three things at the end: model, adapters, checkpoint."""
    train(recipe_in(tmp_path, *COMMON))
    start = f"model={{path: {tmp_path / 'run/model'}}}"
    words = (*COMMON[1:], start, "train.lora={rank: 4}", "train.freeze=[model.vision_tower.*]")
    words = (*words, "train.learning_rate=5e-3")
    train(recipe_in(tmp_path, *words, f"output={tmp_path / 'one'}"))
    two = (*words, f"output={tmp_path / 'two'}")
    assert "Finished" not in run(tmp_path, 2, *two, at=3, name="SIGKILL", rank=1)
    told = run(tmp_path, 2, *two)
    assert "Finished" in told, told
    expect_resumed(told)
    assert "LoRA of rank 4" in told
    expect_close(tmp_path / "two", tmp_path / "one")
    for folder in ("model", "adapter"):
        mine, theirs = (load_file(next((tmp_path / name / folder).glob("*.safetensors"))) for name in ("two", "one"))
        assert mine.keys() == theirs.keys()
        for name, got in mine.items():
            torch.testing.assert_close(got, theirs[name], atol=1e-4, rtol=1e-3, msg=name)
    fresh = (*words, f"output={tmp_path / 'fresh'}", "model={preset: tiny, text: {num_hidden_layers: 1}}")
    assert "Finished" in run(tmp_path, 2, *fresh), "the base is made on the way"
    moved = (*fresh, f"output={tmp_path / 'moved'}")
    assert "Finished" not in run(tmp_path, 1, *moved, at=4, name="SIGKILL", rank=0)
    told = run(tmp_path, 2, *moved)
    assert "Finished" in told, "or where a run of one process goes on in two"
    expect_resumed(told)
    expect_close(tmp_path / "moved", tmp_path / "fresh")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_replicas_of_shards(processes: int, recipe: Recipe, alone: Path, tmp_path: Path) -> None:
    told = run(tmp_path, processes, *COMMON, "train.replicas=2")
    assert "Finished" in told, told
    expect_close(tmp_path / "run", alone)
    refused = run(tmp_path, 2, *COMMON, "train.replicas=3", f"output={tmp_path / 'none'}")
    assert "train.replicas: 3 replicas of the model cannot share 2 processes evenly" in refused


@pytest.mark.slow
def test_fewer_samples_than_processes_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    told = run(tmp_path, 2, *COMMON, "train.batch_size=1")
    assert "train.batch_size: 1 samples for 2 processes" in told


@pytest.mark.slow
def test_the_weights_are_made_in_shards(recipe_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tied weights stay tied, and nothing is left without a value, read from the files of a run in one process."""
    train(recipe_in(tmp_path, *COMMON))
    words = (*COMMON, f"output={tmp_path / 'more'}", f"model={{path: {tmp_path / 'run/model'}}}")
    assert "Finished" in run(tmp_path, 2, *words)
    assert not (tmp_path / "more/start").exists(), "the folder holds it already"
    model, _ = load_model(tmp_path / "more/model")
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    with safe_open(next((tmp_path / "more/model").glob("*.safetensors")), "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 (it is no mapping)
    train(recipe_in(tmp_path, *COMMON, f"output={tmp_path / 'one'}", words[-1]))
    expect_close(tmp_path / "more", tmp_path / "one")
