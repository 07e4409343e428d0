"""Recipes that cannot work, folders that hold something else, runs that fail: what the user reads."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_model import make_model
from what_users_read import Mistake, check, mutua, rows

from mutua.training import load_recipe
from mutua.training.checkpoint import checkpoints
from mutua.training.memory_check import expect_memory

RECIPE = """\
name: small
output: run
model:
  preset: tiny
  vision: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, image_size: 16}
  text: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}
data:
  train:
    - source: {type: scenes, split: train, size: 20}
  tokenizer_texts: 20
train: {steps: 2, batch_size: 2, learning_rate: 1e-3, workers: 0, log_every: 1}
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def train(*overrides: str) -> Any:
    return mutua("train", "recipe.yaml", *(word for override in overrides for word in ("--set", override)))


def setting(*overrides: str) -> Callable[[Path], Any]:
    return lambda _: train(*overrides)


def with_text(before: str, after: str) -> Callable[[Path], Any]:
    def do(place: Path) -> Any:
        assert before in RECIPE
        (place / "recipe.yaml").write_text(RECIPE.replace(before, after))
        return train()

    return do


def written(content: bytes) -> Callable[[Path], Any]:
    def do(place: Path) -> Any:
        (place / "recipe.yaml").write_bytes(content)
        return train()

    return do


def samples(*lines: str) -> str:
    Path("data.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return "{type: jsonl, path: data.jsonl}"


def line(*messages: tuple[str, Any]) -> str:
    return json.dumps({"id": "1", "messages": [{"role": role, "content": content} for role, content in messages]})


ANSWERED = line(("user", "is it?"), ("assistant", "yes"))
ASKED = line(("user", "is it?"))
BROKEN = line(("user", [{"type": "image", "image": "gone.png"}]), ("assistant", "yes"))


def on(*lines: str, key: str = "evaluate.sources.mine") -> Callable[[Path], Any]:
    return lambda _: train(f"{key}={samples(*lines)}")


RECIPES = [
    Mistake("a recipe that is not there", lambda _: mutua("train", "recipes/none.yaml"), ("recipes/none.yaml",)),
    Mistake("a folder", lambda _: mutua("train", "."), (".: cannot be read", "Is a directory")),
    Mistake("no keys", written(b""), ("recipe.yaml: holds no keys", "name")),
    Mistake("a list", written(b"- 1\n"), ("recipe.yaml: holds no keys",)),
    Mistake("a tab", written(b"train:\n\tsteps: 2\n"), ("recipe.yaml: not YAML", "line 2")),
    Mistake("not UTF-8", written(b"name: \xff\xfe"), ("recipe.yaml: no text in UTF-8",)),
    Mistake("Python in YAML", written(b"name: !!python/object:os.system {}"), ("not YAML", "could not determine")),
    Mistake("a date that is none", written(b"name: 2026-99-99"), ("recipe.yaml: not YAML", "month must be in")),
    Mistake("a key twice", with_text("name: small", "name: a\nname: b"), ("'name' is there twice, in lines 1 and 2",)),
    Mistake(
        "a key twice inside",
        with_text("{steps: 2,", "{steps: 2, steps: 3,"),
        ("recipe.yaml: the key 'steps' is there twice, in lines 11 and 11",),
    ),
    Mistake("a key twice in --set", setting("train={steps: 2, steps: 3}"), ("--set train=", "'steps' is there twice")),
    Mistake("a date that is none in --set", setting("name=2026-99-99"), ("--set name=2026-99-99: not YAML: month",)),
    Mistake("a list as a key", written(b"? [a]\n: 1"), ("recipe.yaml: line 1: a key is a name, not a list",)),
    Mistake("a mapping as a key", written(b"? {a: 1}\n: 1"), ("recipe.yaml: line 1: a key is a name",)),
    Mistake(
        "a thousand lists", written(b"name: " + b"[" * 1000), ("recipe.yaml: lists or mappings are nested deeper",)
    ),
    Mistake("a thousand lists in --set", setting("name=" + "[" * 1000 + "]" * 1000), ("--set name=[", "nested deeper")),
    Mistake("an output without a name", setting("output=''"), ("output: is empty; name a folder",)),
    Mistake("a home that no shell expands", setting("output=~/x"), ("output: got '~/x', but only a shell expands ~",)),
    Mistake(
        "a null character", setting('output="a\\0b"'), ("output: got 'a\\x00b', and no name has a null character",)
    ),
    Mistake("a slip in a key", setting("train.stepz=3"), ("train.stepz: unknown key", "did you mean 'steps'?")),
    Mistake("words for a number", setting("train.steps=many"), ("train.steps: got 'many', expected an integer",)),
    Mistake("no steps", setting("train.steps=0"), ("train.steps: got 0, expected a number of at least 1",)),
    Mistake("an infinite rate", setting("train.learning_rate=.inf"), ("train.learning_rate", "finite number")),
    Mistake("an infinite decay", setting("train.weight_decay=.inf"), ("train.weight_decay", "finite number")),
    Mistake("a rate that is none", setting("train.learning_rate=.nan"), ("train.learning_rate", "finite number")),
    Mistake("a rate below zero", setting("train.learning_rate=-1"), ("train.learning_rate: got -1", "above 0")),
    Mistake("a seed below zero", setting("seed=-1"), ("seed: got -1, expected a number of at least 0",)),
    Mistake("a seed too large", setting(f"seed={2**70}"), ("seed: got", "below")),
    Mistake("an empty name", setting("name=''"), ("name: got '', expected at least 1 characters",)),
    Mistake("a warm-up without end", setting("train.warmup_steps=2"), ("warmup_steps 2 must be below steps 2",)),
    Mistake(
        "ten million samples a step", setting("train.batch_size=10000000"), ("train.batch_size: got", "at most 1000000")
    ),
    Mistake("a thousand workers", setting("train.workers=1000"), ("train.workers: got 1000", "at most 256")),
    Mistake("a billion texts", setting("data.tokenizer_texts=1000000000"), ("data.tokenizer_texts", "at most 1000000")),
    Mistake("micro-batches above the batch", setting("train.micro_batch_size=3"), ("micro_batch_size 3 is above",)),
    Mistake("nothing left to train", setting("train.freeze=['*']"), ("train.freeze: * freeze every parameter",)),
    Mistake("a pattern without a match", setting("train.freeze=[foo.*]"), ("'foo.*' matches no parameter",)),
    Mistake("heads that do not divide", setting("model.text.hidden_size=30"), ("model.text", "=15", "go together")),
    Mistake("-1 layers", setting("model.text.num_hidden_layers=-1"), ("model.text.num_hidden_layers is -1",)),
    Mistake("a width in words", setting("model.text.hidden_size=wide"), ("model.text", "'hidden_size' expected int")),
    Mistake("an unknown preset", setting("model={preset: huge}"), ("model", "'huge'")),
    Mistake("a model that is not there", setting("model={path: no/model}"), ("model.path no/model: no model at",)),
    Mistake("an unknown policy", setting("model.attention_policy=mmma"), ("model.attention_policy", "'mmma'")),
    Mistake("no data", setting("data.train=[]"), ("data.train: got [], expected at least 1 entries",)),
    Mistake("an unknown source", setting("data.train.0.source.type=web"), ("data.train.0.source", "'web'")),
    Mistake("a weight of zero", setting("data.train.0.weight=0"), ("data.train.0.weight: got 0, expected",)),
    Mistake(
        "a file that is not there", setting("data.train.0.source={type: jsonl, path: no.jsonl}"), ("data.train.0",)
    ),
    Mistake("a file without samples", on(key="data.train.0.source"), ("is empty", "leave it out")),
    Mistake(
        "a wrong path to evaluate on",
        setting("evaluate.sources.mine={type: jsonl, path: no.jsonl}"),
        ("evaluate.sources.mine: no.jsonl: no such file",),
    ),
    Mistake("nothing to evaluate on", on(), ("evaluate.sources.mine", "no samples")),
    Mistake("no answer to compare with", on(ASKED), ("evaluate.sources.mine", "has no answer")),
    Mistake("a picture to evaluate on is gone", on(BROKEN), ("evaluate.sources.mine: data.jsonl:1", "gone.png")),
    Mistake("no sample of any use", on(BROKEN, key="data.train.0.source"), ("data.jsonl:1", "gone.png")),
    Mistake("--set without a value", setting("train.steps"), ("--set train.steps: write it as key.inside=value",)),
    Mistake("--set that leads nowhere", setting("name.x.y=3"), ("--set name.x.y=3", "does not lead on")),
]


def into(prepare: Callable[[Path], Any], *overrides: str) -> Callable[[Path], Any]:
    """Prepares the place, then trains."""

    def do(place: Path) -> Any:
        prepare(place)
        return train(*overrides)

    return do


def own_recipe(place: Path) -> Any:
    (place / "self").mkdir()
    (place / "self" / "recipe.yaml").write_text(RECIPE)
    return mutua("train", "self/recipe.yaml", "--set", "output=self")


def foreign_model(place: Path) -> None:
    train("output=other")
    (place / "run").mkdir()
    (place / "other" / "model").rename(place / "run" / "model")


def swapped_model(place: Path) -> None:
    train("output=other", "seed=7")
    train()
    (place / "run" / "model").rename(place / "aside")
    (place / "other" / "model").rename(place / "run" / "model")


def precious_model(place: Path) -> None:
    train()
    for path in (place / "run" / "model").iterdir():
        path.unlink()
    (place / "run" / "model" / "precious").write_text("x")


def holding(name: str, folder: str = "run") -> Callable[[Path], Any]:
    """Trains into a folder that has something of that name already, a folder where it ends in a slash."""

    def do(place: Path) -> Any:
        path = place / folder / name
        path.mkdir(parents=True) if name.endswith("/") else path.parent.mkdir(parents=True)
        if path.is_file() or not path.exists():
            path.write_text("precious")
        return train()

    return do


def damaged(name: str, content: str | None, *overrides: str) -> Callable[[Path], Any]:
    """Trains, then writes that (None: a folder) into a file of the run, and trains again."""

    def do(place: Path) -> Any:
        train()
        path = place / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.mkdir() if content is None else path.write_text(content)
        return train(*overrides)

    return do


def dangling(place: Path) -> None:
    (place / "run").symlink_to("nowhere")


def read_only(place: Path) -> None:
    Path("/proc/mutua") if Path("/proc").is_dir() else pytest.skip("no folder that nobody can write to")


FOLDERS = [
    Mistake("the folder of the recipe itself", own_recipe, ("output: self/recipe.yaml is there, and no run wrote it",)),
    Mistake("the model of another run", into(foreign_model), ("output: run/model is there, and no run wrote it",)),
    Mistake("a model put in by hand", into(swapped_model), ("seed: 0, but the run in run has 7",)),
    Mistake("a model folder of something else", into(precious_model), ("output: run/model", "no run made it")),
    Mistake("a file", into(lambda place: (place / "run").write_text("x")), ("output: run is a file; name a folder",)),
    Mistake(
        "a folder that cannot be written",
        into(read_only, "output=/proc/mutua"),
        ("output: /proc/mutua cannot be written (No such file or directory); choose another output",),
    ),
    Mistake("a folder in a file", into(lambda _: None, "output=recipe.yaml/x"), ("output: recipe.yaml/x cannot be",)),
    Mistake("a link that leads nowhere", into(dangling), ("output: run is a link that leads nowhere; name a folder",)),
    Mistake(
        "a name too long", setting("output=" + "a" * 300), ("output: aaa", "cannot be written (File name too long)")
    ),
    *(
        Mistake(f"somebody's {name}", holding(name), (f"output: run/{name.strip('/')} is there, and no run wrote it",))
        for name in (
            "recipe.yaml",
            "log.jsonl",
            "quarantine.jsonl",
            "tensorboard/",
            "loggers/",
            "checkpoints/",
            "model/",
        )
    ),
    Mistake("somebody's model.new", holding("model.new/"), ("output: run/model.new is there, and no run wrote it",)),
    Mistake("somebody's adapter.new", holding("adapter.new/"), ("output: run/adapter.new is there, and no run",)),
    Mistake("a lock that is a folder", holding(".lock/"), ("output: run/.lock is there, and no run wrote it",)),
    Mistake("a model that is a file", damaged("model", "x"), ("output: run/model is a file where a run has a folder",)),
    Mistake("checkpoints in a file", damaged("checkpoints", "x"), ("output: run/checkpoints is a file where",)),
    Mistake(
        "a log that is a folder", damaged("log.jsonl", None), ("output: run/log.jsonl is a folder where a run has",)
    ),
    Mistake(
        "a damaged record", damaged("model/run.json", "{"), ("output: run/model/run.json is damaged", "remove run/")
    ),
    Mistake("a record of nothing", damaged("model/run.json", "[]"), ("output: run/model/run.json is damaged",)),
    Mistake("a record without results", damaged("model/run.json", '{"step": 2}'), ("run.json is damaged", "metrics")),
    Mistake("a damaged recipe of a run", damaged("recipe.yaml", "["), ("run/recipe.yaml: not YAML",)),
    *(
        Mistake(
            f"a log of {what}", damaged("log.jsonl", text, "train.steps=3"), ("run/log.jsonl: line 1 is no line of",)
        )
        for what, text in (("numbers", "5\n"), ("something else", "{}\n"), ("no JSON", "?\n{}\n"))
    ),
    Mistake("another recipe", into(lambda _: train(), "seed=7"), ("seed: 7, but the run in run has 0",)),
    Mistake("fewer steps", into(lambda _: train(), "train.steps=1"), ("train.steps: 1, but the run in run has 2",)),
]


@rows(RECIPES)
def test_recipes(mistake, place):
    check(mistake, place)
    assert not (place / "run" / "checkpoints").is_dir() or not checkpoints(place / "run" / "checkpoints")


@rows(FOLDERS)
def test_folders(mistake, place):
    check(mistake, place)


def test_a_batch_that_no_memory_holds(place):
    recipe, model = load_recipe("recipe.yaml", ["train.batch_size=1000000"]), make_model(grid=100)
    with pytest.raises(ValueError, match=r"train\.batch_size: 1000000 pictures of 800 x 800 take 7153 GiB"):
        expect_memory(recipe, model)


def test_the_recipe_as_it_was_trains_and_tells_its_loss(place):
    result = train()
    assert result.exit_code == 0, result.output
    assert ", loss " in " ".join(result.output.split())


def test_the_loss_of_one_logged_step_is_told_once(place):
    told = " ".join(train("train.log_every=10").output.split())
    assert ", loss " in told
    assert "->" not in told


def test_what_is_not_the_runs_own_is_left_as_it_was(place):
    own_recipe(place)
    assert (place / "self" / "recipe.yaml").read_text() == RECIPE


def test_other_files_in_the_folder_stay_as_they_are(place):
    """A run removes what it left half done, and nothing that looks like it."""
    (place / "run" / "mine.partial").mkdir(parents=True)
    for name in ("mine.partial/data", "film.partial", "recipe.yaml.new", "notes.txt"):
        (place / "run" / name).write_text("precious")
    assert train().exit_code == 0
    for name in ("mine.partial/data", "film.partial", "recipe.yaml.new", "notes.txt"):
        assert (place / "run" / name).read_text() == "precious"


def test_merged_keys_are_not_there_twice(place):
    """What a recipe merges into a mapping, the mapping may say anew, and may itself be merged."""
    base = "{type: scenes, split: test, size: 2}"
    sources = f"{{c: {{<<: &b {{<<: &a {base}, size: 3}}, seed: 1}}, b: *b, a: *a}}"
    (place / "recipe.yaml").write_text(RECIPE + f"evaluate: {{sources: {sources}}}\n")
    sizes = {name: source.size for name, source in load_recipe("recipe.yaml").evaluate.sources.items()}
    assert sizes == {"a": 2, "b": 3, "c": 3}


def test_a_stop_before_the_first_step_needs_no_second(place, monkeypatch):
    """There is nothing to save yet, so nobody waits for a step."""

    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    monkeypatch.setattr("mutua.training.build.train_tokenizer", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts the background deaf to it
    try:
        result = train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_reading_for_a_tokenizer_tells_how_far_it_is(place, monkeypatch):
    monkeypatch.setattr("mutua.training.build._SECONDS_BETWEEN_LINES", 0)
    assert "the tokenizer has read 19 of 20 texts (data.tokenizer_texts)" in train().output


def test_an_evaluation_tells_how_far_it_is(place, monkeypatch):
    monkeypatch.setattr("mutua.training.log._SECONDS_BETWEEN_LINES", 0)
    assert "mine: 1 of 1" in train(f"evaluate.sources.mine={samples(ANSWERED)}").output


def test_a_log_that_cannot_be_written_is_named(place, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    result = train()
    assert result.exit_code == 1
    assert "No space left on device: 'run/tensorboard'" in result.stderr
    assert "Step 1 is saved" in " ".join(result.stderr.split())


def test_a_wrong_path_to_evaluate_on_can_be_put_right(place):
    key = "evaluate.sources.mine"
    assert train("train.steps=2").exit_code == 0
    (place / "run" / "model").rename(place / "aside")  # as before the last evaluation
    assert "no such file" in train(f"{key}={{type: jsonl, path: no.jsonl}}").stderr
    result = train(f"{key}={samples(ANSWERED)}")
    assert result.exit_code == 0, result.output
    assert (place / "run" / "model").is_dir()


def test_all_checkpoints_damaged(place):
    train()
    (place / "run" / "model").rename(place / "aside")
    for checkpoint in checkpoints(place / "run" / "checkpoints"):
        (checkpoint / "trainer.json").write_text("?")
    log = (place / "run" / "log.jsonl").read_bytes()
    earlier = place / "run" / "log.jsonl.step-000002"  # of a run that began anew before
    earlier.write_text("earlier")
    result = train()
    told = " ".join(result.output.split())
    assert result.exit_code == 0
    kept = "Its logs are kept as log.jsonl.step-000002-1, "
    assert f"None of the 1 checkpoints is whole: this run starts over, from step 0. {kept}" in told
    assert "trying the checkpoint before it" not in told
    assert (earlier.read_text(), (place / "run" / "log.jsonl.step-000002-1").read_bytes()) == ("earlier", log)
    assert (place / "run" / "log.jsonl").read_bytes().count(b"\n") == 2


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_a_damaged_one(place, monkeypatch):
    def denied(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()}

    train()
    (place / "run" / "model").rename(place / "aside")
    before = files()
    monkeypatch.setattr("mutua.training.checkpoint._fingerprint", denied)
    result = train()
    assert result.exit_code == 1
    told = " ".join(result.stderr.split())
    assert "run/checkpoints/step-000002/" in told
    assert "cannot be read (Permission denied): run the same command again when it can" in told
    assert files() == before


def test_data_that_shrank_before_a_resume(place):
    source = samples(ANSWERED, ANSWERED)
    train(f"data.train.0.source={source}")
    samples(ANSWERED)
    (place / "run" / "model").rename(place / "aside")
    result = train(f"data.train.0.source={source}")
    assert result.exit_code == 1
    assert "has changed since this run began: it had 2 samples, and has 1 now" in " ".join(result.stderr.split())
