"""A finished run that gets more steps, and data that are others than when a run began."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from training_runs import at_step, lines

from mutua.training import CheckpointError, Recipe, RecipeError, train
from mutua.training import loop as loop_module
from mutua.training import run as run_module
from mutua.training.run_folder import RunFolder

LORA = ("train.lora={rank: 2, alpha: 4}", "train.freeze=['model.vision_tower.*']")


class Killed(BaseException):
    """As kill -9: no `except Exception` sees it."""


@pytest.fixture(scope="module", params=["whole", "adapters"])
def finished(request, tmp_path_factory, recipe_in) -> tuple[Path, tuple[str, ...]]:
    """A run of 9 steps, and what its recipe has besides."""
    folder = tmp_path_factory.mktemp("finished")
    overrides = LORA if request.param == "adapters" else ()
    train(recipe_in(folder, *overrides), Console(quiet=True))
    return folder / "run", overrides


@pytest.fixture
def again(
    finished: tuple[Path, tuple[str, ...]], tmp_path: Path, recipe_in: Callable[..., Recipe]
) -> Callable[..., Recipe]:
    """Recipes on a copy of the finished run, with more steps."""
    shutil.copytree(finished[0], tmp_path / "run")
    return lambda *overrides: recipe_in(tmp_path, *finished[1], "train.steps=14", *overrides)


def weights(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for name in ("model", "adapter")
        for path in sorted((run / name).rglob("*"))
        if path.suffix in (".safetensors", ".json")
    }


def test_a_finished_run_goes_on_with_more_steps(again, tmp_path: Path, finished, console: Console) -> None:
    before = weights(finished[0])
    result = train(again(), console)
    run = tmp_path / "run"
    assert (result.folder, result.step) == (run / "model", 14)
    assert "step-000009" in console.file.getvalue()  # type: ignore[attr-defined]
    assert lines(run)[:9] == lines(finished[0])
    assert [line["step"] for line in lines(run)] == list(range(1, 15))
    assert [line["step"] for line in lines(run, "evaluations.jsonl")] == [3, 6, 9, 12, 14]
    # The schedule is that of 14 steps: what was the end of the cosine is its middle now.
    assert lines(run)[9]["learning_rate"] > 3 * lines(run)[8]["learning_rate"]
    after = weights(run)
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in after if name.endswith(("model.safetensors", "run.json")))
    assert json.loads(after["model/run.json"])["step"] == 14
    assert not [path.name for path in run.iterdir() if path.name.endswith((".new", ".mutua-partial", ".old"))]
    assert train(again(), console).step == 14


@pytest.mark.parametrize("moment", ["training", "write_model", "place_results", "between"])
def test_killed_in_between_nothing_is_lost(
    again, tmp_path: Path, finished, monkeypatch: pytest.MonkeyPatch, moment: str, console: Console
) -> None:
    run, before = tmp_path / "run", weights(finished[0])

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "training":
            at_step(patch, 11, die)
        elif moment == "write_model":  # which writes checkpoints, too
            for module in (loop_module, run_module):  # adapters are merged in the other one
                original = module.write_model
                patch.setattr(module, "write_model", lambda f, *a, o=original: die() if "model" in f.name else o(f, *a))
        elif moment == "place_results":
            patch.setattr(RunFolder, "place_results", lambda self: die() if self.new_model.is_dir() else None)
        else:  # with the old results out of the way, and the new ones not yet in their place
            rename = Path.rename
            patch.setattr(Path, "rename", lambda path, to: die() if path.name == "model.new" else rename(path, to))
        with pytest.raises(Killed):
            train(again(), console)
    if moment != "between":
        assert weights(run) == before
    result = train(again(), console)
    assert (result.step, result.folder) == (14, run / "model")
    assert json.loads((run / "model" / "run.json").read_text())["step"] == 14
    assert (run / "adapter").is_dir() == ("adapter" in {name.partition("/")[0] for name in before})
    assert not [path.name for path in run.iterdir() if path.name.endswith((".new", ".mutua-partial", ".old"))]


def test_more_steps_need_a_checkpoint(again, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(RecipeError, match=r"train\.steps: 14, but the finished run .* has no checkpoint to go on from"):
        train(again(), Console(quiet=True))


def test_nothing_else_may_change_and_steps_may_not_shrink(again) -> None:
    with pytest.raises(RecipeError, match=r"train\.learning_rate: 0\.5, but"):
        train(again("train.learning_rate=0.5"), Console(quiet=True))
    with pytest.raises(RecipeError, match=r"train\.steps: 5, but the run .* has 9"):
        train(again("train.steps=5"), Console(quiet=True))


def test_a_model_that_no_run_made_is_left_alone(tmp_path: Path, recipe_in) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "precious").write_text("x")
    with pytest.raises(RecipeError, match=r"output: .*model is there, and no run wrote it"):
        train(recipe_in(tmp_path), Console(quiet=True))
    assert (tmp_path / "run" / "model" / "precious").exists()


# Data that have changed


def chats(path: Path, replies: list[str]) -> Path:
    content = [[{"role": "user", "content": "who?"}, {"role": "assistant", "content": reply}] for reply in replies]
    path.write_text("".join(json.dumps({"id": str(n), "messages": chat}) + "\n" for n, chat in enumerate(content)))
    return path


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (["yes"] * 10, r"it had 20 samples, and has 10 now"),
        (
            ["yes"] * 13 + ["no"] + ["yes"] * 6,
            r"it had [0-9a-f]{8} as the checksum of its content, and has [0-9a-f]{8} now",
        ),
    ],
)
def test_a_file_that_has_changed_is_named(
    tmp_path: Path, recipe_in, monkeypatch: pytest.MonkeyPatch, replies: list[str], expected: str
) -> None:
    path = chats(tmp_path / "chats.jsonl", ["yes"] * 20)
    sources = (
        f"data.train=[{{source: {{type: scenes, split: train, size: 9}}}}, {{source: {{type: jsonl, path: {path}}}}}]"
    )

    def die(_: object) -> None:
        raise Killed

    at_step(monkeypatch, 5, die)
    with pytest.raises(Killed):
        train(recipe_in(tmp_path, sources), Console(quiet=True))
    chats(path, replies)
    with pytest.raises(
        CheckpointError, match=rf"data\.train\.1 \(jsonl {path}\) has changed .*: {expected}\. Put the old"
    ):
        train(recipe_in(tmp_path, sources), Console(quiet=True))
    chats(path, ["yes"] * 20)  # written anew, with another time: the same data
    assert train(recipe_in(tmp_path, sources), Console(quiet=True)).step == 9


def test_a_generator_that_has_changed_is_named(tmp_path: Path, recipe_in, monkeypatch: pytest.MonkeyPatch) -> None:
    from mutua.data.scenes import Scenes

    def die(_: object) -> None:
        raise Killed

    at_step(monkeypatch, 5, die)
    with pytest.raises(Killed):
        train(recipe_in(tmp_path), Console(quiet=True))
    original = Scenes.__getitem__
    monkeypatch.setattr(Scenes, "__getitem__", lambda self, index: original(self, (index + 1) % len(self)))
    with pytest.raises(CheckpointError, match=r"data\.train\.0 \(scenes train\) has changed"):
        train(recipe_in(tmp_path), Console(quiet=True))


def test_a_finished_run_is_left_as_it_is(finished, tmp_path: Path, recipe_in, console: Console) -> None:
    """Also where what is measured is another: nothing is measured again, and the recipe stays that of what was done."""
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    result = train(recipe_in(tmp_path, *finished[1], "evaluate.limit=1"), console)
    assert not result.interrupted
    assert "measure it as you like: mutua eval" in console.file.getvalue()  # type: ignore[attr-defined]
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before
